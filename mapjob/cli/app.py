"""The `mapjob` program: its commands, and how errors become exit codes."""

import sys
import traceback

import typer

from mapjob.cli.clean import clean
from mapjob.cli.config import config_app
from mapjob.cli.demo import demo
from mapjob.cli.diff import diff
from mapjob.cli.plan import plan
from mapjob.cli.rank import rank
from mapjob.cli.run import run
from mapjob.cli.show import show
from mapjob.cli.status import status
from mapjob.errors import MapjobError

app = typer.Typer(
    help="Score preference pairs, rank them globally by alignment potential (MAP), and publish what to train on.",
    epilog="Exit codes: 0 committed; 2 usage or run file; 3 input rejected; 4 incomplete, run again; 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
for command in (demo, plan, run, rank, show, status, diff, clean):
    app.command()(command)
app.add_typer(config_app, name="config")


def main() -> None:
    """Entry point. An error says what, where, and what to do; the traceback only with -v. Ctrl-C exits with 130."""
    try:
        app()
    except MapjobError as error:
        if {"-v", "--verbose"} & set(sys.argv):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
