"""A nightly run and a training behind it, for Airflow 3: put this file into the folder of DAGs.

Code 4 (resumable), and the end by a signal: the task is retried, with growing waits. Codes 1, 2, 3 and 5: it fails at
once and for good, a person is told, and the training does not start; 5 means committed, but not promoted, since a check
failed. Code 0: the training starts.
"""

import subprocess
from datetime import datetime, timedelta

from airflow.exceptions import AirflowException, AirflowFailException
from airflow.sdk import dag, task

RUN_FILE = "/opt/mapjob/run.yaml"  # EDIT
OUTPUT = "/data/nightly"  # EDIT: its output.path
RESUMABLE = (4, 137, 143, -9, -15)  # the others: killed, for memory or by a scheduler
MEANINGS = {
    1: "a fault of mapjob: please report it",
    2: "the command or the run file is wrong",
    3: "the corpus was rejected",
    5: "committed, not promoted: a check failed (mapjob status names it, mapjob promote overrules it)",
}


def tell(context):
    """EDIT: to whom and how. Airflow calls it once a task has failed for good."""
    print(f"mapjob: {context.get('exception')}")


def call(*command):
    """Run a command to its end; if this task is ended, so is the command, by SIGTERM."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


@dag(schedule="0 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)  # EDIT
def mapjob_nightly():
    @task(
        retries=5,
        retry_delay=timedelta(minutes=2),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(hours=1),
        on_failure_callback=tell,
    )
    def run():
        code = call("mapjob", "run", RUN_FILE)
        if code in RESUMABLE:
            raise AirflowException(f"resumable (code {code}): the same command again")
        if code:
            raise AirflowFailException(MEANINGS.get(code, f"code {code}"))

    @task(on_failure_callback=tell)
    def train():
        if code := call("mapjob", "train", OUTPUT, "--objective", "simpo", "--output", "/data/models/newest"):  # EDIT
            raise AirflowFailException(f"the training ended with code {code}")

    run() >> train()


mapjob_nightly()
