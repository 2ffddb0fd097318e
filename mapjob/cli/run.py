"""`mapjob run`: the whole job."""

from typing import Annotated

from typer import Option

from mapjob.cli.options import (
    ConfigFile,
    Limit,
    Name,
    Note,
    Notify,
    Overrides,
    Result,
    TrustRemoteCode,
    print_run,
    with_name,
)
from mapjob.config.load import load_config
from mapjob.errors import check_extra
from mapjob.job.notify import Notifier
from mapjob.job.run import run_job
from mapjob.report.tracked import Tracker, log_run
from mapjob.store.run_folder import path_of


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    limit: Limit = None,
    name: Name = None,
    note: Note = None,
    notify: Notify = None,
    trust_remote_code: TrustRemoteCode = False,
    events: Annotated[
        str | None, Option(metavar="FILE", help="Append one JSON line per unit, and for start, pass and finish.")
    ] = None,
    log_to: Annotated[
        Tracker | None,
        Option(
            help="Log the numbers and the report of the committed run there, to the project of WANDB_PROJECT or "
            "TRACKIO_PROJECT (default: mapjob). A failure to log is a warning."
        ),
    ] = None,
) -> Result:
    """Score the units that lack scores, rank the whole corpus, publish the selection, promote it if its checks pass.

    Run the same command again after any interruption: it resumes from the units that are committed.

    Example: mapjob run configs/single_gpu.yaml --set selection.keep.ratio=0.25
    """
    if log_to is not None:
        check_extra(log_to, log_to, "logging", f"--log-to {log_to}")  # before the run, not after it
    with Notifier(notify) as notifier:
        run_file = load_config(config, with_name(overrides, name))
        notifier.name = run_file.name
        manifest = run_job(run_file, limit, trust_remote_code, events, note)
        result = print_run(manifest, promote=True)
        notifier.finish(manifest, result["exit_code"])
    if log_to is not None:
        log_run(path_of(manifest), log_to)
    return result
