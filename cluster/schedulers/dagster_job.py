"""A nightly run and a training behind it, for Dagster: `dagster dev -f dagster_job.py`.

Code 4 (resumable), and the end by a signal: the op is retried, with growing waits. Codes 1, 2, 3 and 5: it fails at
once and for good, a person is told, and the training does not start; 5 means committed, but not promoted, since a check
failed. Code 0: the training starts.
"""

import os
import subprocess

from dagster import (
    Definitions,
    Failure,
    HookContext,
    In,
    Nothing,
    OpExecutionContext,
    RetryRequested,
    ScheduleDefinition,
    failure_hook,
    job,
    op,
)

RUN_FILE = "/opt/mapjob/run.yaml"  # EDIT
OUTPUT = "/data/nightly"  # EDIT: its output.path
RETRIES, WAIT_S = 5, float(os.environ.get("MAPJOB_WAIT_S", "120"))
RESUMABLE = (4, 137, 143, -9, -15)  # the others: killed, for memory or by a scheduler
MEANINGS = {
    1: "a fault of mapjob: please report it",
    2: "the command or the run file is wrong",
    3: "the corpus was rejected",
    5: "committed, not promoted: a check failed (mapjob status names it, mapjob promote overrules it)",
}


@failure_hook
def tell(context: HookContext) -> None:
    """EDIT: to whom and how. Dagster calls it once an op has failed for good."""
    context.log.error(f"mapjob: {context.op_exception}")


def call(*command: str) -> int:
    """Run a command to its end; if this op is ended, so is the command, by SIGTERM."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


@op
def run(context: OpExecutionContext) -> None:
    code = call("mapjob", "run", RUN_FILE)
    if code in RESUMABLE:
        raise RetryRequested(max_retries=RETRIES, seconds_to_wait=min(3600, WAIT_S * 2**context.retry_number))
    if code:
        raise Failure(MEANINGS.get(code, f"code {code}"), allow_retries=False)


@op(ins={"promoted": In(Nothing)})
def train() -> None:
    if code := call("mapjob", "train", OUTPUT, "--objective", "simpo", "--output", "/data/models/newest"):  # EDIT
        raise Failure(f"the training ended with code {code}", allow_retries=False)


@job(hooks={tell})
def mapjob_nightly() -> None:
    train(run())


definitions = Definitions(schedules=[ScheduleDefinition(job=mapjob_nightly, cron_schedule="0 2 * * *")])  # EDIT
