"""`mapjob rank`: another selection from the same scores."""

from typing import Annotated

from typer import Exit, Option

from mapjob.cli.options import (
    Limit,
    Name,
    Note,
    Notify,
    Overrides,
    Ranked,
    Result,
    TrustRemoteCode,
    print_run,
    with_name,
)
from mapjob.job.notify import Notifier
from mapjob.job.run import rank_job
from mapjob.metrics.ensemble import VOTES
from mapjob.metrics.signals import SIGNALS
from mapjob.metrics.table import METRICS, PAIRINGS


def explain(asked: bool) -> None:
    """Every metric, signal, pairing and vote of a run file in two lines, with its source."""
    if asked:
        for key, methods in (("metric", METRICS), ("signals", SIGNALS), ("pairing", PAIRINGS), ("votes", VOTES)):
            print(f"selection.{key}:\n")
            for name, method in methods.items():
                print(name, *method.about.split("\n"), sep="\n    ", end="\n\n")
        raise Exit


List = Annotated[
    bool,
    Option(
        "--list", callback=explain, is_eager=True, help="Explain each metric, signal, pairing and vote, and do no more."
    ),
]


def rank(
    source: Ranked,
    overrides: Overrides = None,
    limit: Limit = None,
    name: Name = None,
    note: Note = None,
    notify: Notify = None,
    list_metrics: List = False,
    trust_remote_code: TrustRemoteCode = False,
    promote: Annotated[bool, Option("--promote", help="Let latest.json name the new run, if its checks pass.")] = False,
) -> Result:
    """Rank and publish from the stored scores, as a new run. No model is loaded.

    An experiment by default: whoever takes the output folder still gets the promoted run.

    Example: mapjob rank runs/demo --set selection.alpha=2.5 --set selection.keep='{count: 500}'
    """
    with Notifier(notify) as notifier:
        notifier.name = name
        manifest = rank_job(source, limit, trust_remote_code, with_name(overrides, name), promote, note)
        result = print_run(manifest, promote)
        notifier.finish(manifest, result["exit_code"])
    return result
