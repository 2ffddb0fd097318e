"""The `mapjob` program: its commands, and how errors become exit codes."""

import gc
import os
import sys
import traceback
from types import TracebackType

import typer

from mapjob.cli.browse import browse
from mapjob.cli.clean import clean
from mapjob.cli.config import config_app
from mapjob.cli.demo import demo
from mapjob.cli.diff import diff
from mapjob.cli.doctor import doctor
from mapjob.cli.forget import forget
from mapjob.cli.generate import generate
from mapjob.cli.history import history
from mapjob.cli.init import init
from mapjob.cli.options import Verbose, add_flags, is_verbose, log_to_stderr
from mapjob.cli.plan import plan
from mapjob.cli.promote import promote
from mapjob.cli.push import push
from mapjob.cli.rank import rank
from mapjob.cli.read import read
from mapjob.cli.report import report
from mapjob.cli.review import review
from mapjob.cli.run import run
from mapjob.cli.selfplay import selfplay
from mapjob.cli.show import show
from mapjob.cli.status import status
from mapjob.cli.submit import submit
from mapjob.cli.sweep import sweep
from mapjob.cli.train import train
from mapjob.cli.validate import validate
from mapjob.cli.verdicts import verdicts
from mapjob.errors import IncompleteError, MapjobError
from mapjob.escaping import for_terminal, redact
from mapjob.interrupts import raise_on_signals
from mapjob.store.scratch import explain_unwritable

app = typer.Typer(
    help="Score preference pairs, rank them globally by alignment potential (MAP), and publish what to train on.",
    epilog="Exit codes: 0 committed; 1 anything else; 2 usage or run file; 3 input rejected; 4 incomplete, run again; "
    "5 committed, but not promoted, since a check failed; 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
PANELS = {
    "See and decide": (demo, init, read, plan, doctor),
    "The job": (run, rank, sweep, submit, status, promote, clean, forget),
    "Look": (report, show, browse, diff, history, review, verdicts),
    "Use": (push, train),
    "Laboratory": (generate, selfplay, validate),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(add_flags(command))
app.add_typer(config_app, name="config", rich_help_panel="See and decide")


@app.callback()
def start(verbose: Verbose = False) -> None:
    log_to_stderr(verbose)


def main() -> None:
    """Entry point. An error says what, where, and what to do; the traceback only with -v. Ctrl-C exits with 130."""
    # Ray reads this when imported. Threads of Ray Data outlive a run that is told to end; what they ask of Ray after it
    # has left would start a second one, in a process that is ending and then hangs or crashes.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    # And this when it starts: no call that nobody watches waits for a lost head for ever, as one of a caller's may.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "60")
    code: int | str | None = None
    try:
        with raise_on_signals():
            code = _exit_code()
            _leave_ray()
    except KeyboardInterrupt:  # a second signal, while the first one ends the command
        code = code or 130
    except IncompleteError as error:
        code = code or error.exit_code
    sys.exit(code)


def _exit_code() -> int | str | None:
    """Run the command. When this returns, an error is gone with all that its frames held.

    Among that may be a graph of Ray Data, whose end needs a Ray that is up; at the exit of Python it prints a trace.
    """
    try:
        app()
    except SystemExit as ended:
        code = ended.code
    except MapjobError as error:
        code = _report(error)
    except OSError as error:  # of a library that keeps files somewhere
        if (unwritable := explain_unwritable(error)) is None:
            raise
        code = _report(unwritable)
    finally:
        sys.excepthook = _print_exception  # only now: typer sets a hook of its own
    if code:
        gc.collect()  # frames of errors hold each other
    return code


def _report(error: MapjobError) -> int:
    if is_verbose():
        _print_exception(type(error), error, error.__traceback__)
    print(for_terminal(redact(f"error: {error}")), file=sys.stderr)
    return error.exit_code


def _leave_ray() -> None:
    """While a second signal still finds a handler, which the exit of Python does not have."""
    if "mapjob.pipeline.cluster" in sys.modules:
        sys.modules["mapjob.pipeline.cluster"].disconnect()


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Drivers put whole URLs, with what is secret in them, into what they raise."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(for_terminal(redact(text)), file=sys.stderr, end="")
