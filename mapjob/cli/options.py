"""Arguments that several commands share, and how results are printed."""

import inspect
import json
import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import yaml
from typer import Argument, Exit, Option

from mapjob.errors import NOT_PROMOTED, ConfigError
from mapjob.escaping import one_line
from mapjob.store.run_folder import Manifest, path_of

Result = dict[str, Any]  # of a command: the object that --json prints

Run = Annotated[str, Argument(metavar="RUN", help="A run folder, or an output folder for its promoted run.")]
ConfigFile = Annotated[str, Argument(metavar="CONFIG", help="The run file (YAML).")]
Ranked = Annotated[
    str,
    Argument(
        metavar="CONFIG|OUTPUT",
        help="The run file (YAML). Or an output folder or a run folder, for the settings of its run: then no model is "
        "needed, not even its files.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Override a key of the run file, e.g. --set selection.alpha=2.5"),
]
Name = Annotated[str | None, Option(metavar="TEXT", help="A name for people (`name` of the run file).")]
Note = Annotated[str | None, Option(metavar="TEXT", help="A note for people, kept with the run.")]
Notify = Annotated[
    str | None,
    Option(
        metavar="URL|@FILE",
        help="POST one JSON object to this webhook (Slack's, or any) when the run has finished, is refused or fails. A "
        "failure to do so is a warning. @FILE: a file that holds the URL.",
    ),
]
Limit = Annotated[int | None, Option(min=1, metavar="N", help="Only the first N rows of the input.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object as the last line.")]
TrustRemoteCode = Annotated[
    bool,
    Option(
        "--trust-remote-code",
        help="Run the code that comes with a model, if the run file allows it too (models.*.trust_remote_code).",
    ),
]
Verbose = Annotated[bool, Option("-v", "--verbose", help="Workers' output, and tracebacks of errors.")]


class _Terminal(logging.Handler):
    """What is logged, as lines for people: on stderr, so that stdout holds results alone."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        print(warning + one_line(record.getMessage()), file=sys.stderr, flush=True)


_TERMINAL = _Terminal()


def log_to_stderr(verbose: bool = False) -> None:
    """Show what mapjob logs on stderr; verbose: with the workers' output, and tracebacks of errors."""
    log = logging.getLogger("mapjob")
    log.addHandler(_TERMINAL)  # once, however often it is called
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


def is_verbose() -> bool:
    return logging.getLogger("mapjob").isEnabledFor(logging.DEBUG)


def add_flags(command: Callable[..., Result | None]) -> Callable[..., None]:
    """Give the command the option -v, which people type behind its name, and --json if it returns a result.

    A result that has an exit_code above 0 ends the program with it.
    """
    signature = inspect.signature(command)
    added = {"verbose": Verbose} if signature.return_annotation is None else {"print_json": Json, "verbose": Verbose}
    keyword = inspect.Parameter.KEYWORD_ONLY
    flags = [inspect.Parameter(name, keyword, default=False, annotation=option) for name, option in added.items()]

    @wraps(command)
    def run(verbose: bool, print_json: bool = False, **arguments: Any) -> None:
        log_to_stderr(verbose or is_verbose())
        result = command(**arguments)
        if print_json:
            print(json.dumps(result))
        if result and (exit_code := result.get("exit_code")):
            raise Exit(exit_code)

    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *flags])  # what typer reads
    run.__annotations__ = command.__annotations__ | added
    return run


def confirm(question: str) -> bool:
    """Ask, and take y or yes. Raises ConfigError if nobody is there to answer."""
    try:
        return input(f"{question} [y/N]: ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        do = "add --yes, if that is what you want"
        raise ConfigError("nobody answered, so nothing was done", "standard input, which has ended", do) from None


def with_name(overrides: list[str] | None, name: str | None) -> list[str]:
    """--set, and --name as one of them."""
    return [*(overrides or ()), *([] if name is None else [f"name={yaml.safe_dump(name)}"])]


def print_run(manifest: Manifest, promote: bool) -> Result:
    """What a finished run did: counts, reasons, where it is, whether it is promoted. promote: that was asked for."""
    counts, run_path = manifest["counts"], path_of(manifest)
    print(f"rows read       {counts['rows']:>12,}")
    print(f"ranked          {counts['ranked']:>12,}")
    print(f"selected        {counts['selected']:>12,}")
    for rule, number in counts["passed_over"].items():
        print(f"  skipped by {rule:<19}{number:>12,}")
    if counts["held_out"]:
        print(f"held out        {counts['held_out']:>12,}")
    print(f"dropped by rule {counts['dropped']:>12,}")
    print(f"broken          {counts['broken']:>12,}")
    for reason, number in counts["by_reason"].items():
        print(f"  {reason:<24}{number:>10,}")
    if "verdicts" in counts:
        counted = ", ".join(f"{number:,} {what}" for what, number in counts["verdicts"].items())
        print(f"verdicts of people: {counted}")
    if "scored_rows" in (spent := manifest["spent"]):
        print(f"scored anew     {spent['scored_rows']:>12,}")
    contradicted = f"{counts['label_disagreements']:,} of {counts['ranked']:,} ranked pairs"
    print(f"label contradicts the reward model: {contradicted}")
    for flag, number in manifest["flags"].items():
        if number:
            print(f"{flag}: {number:,} rows")
    print(f"run folder: {one_line(run_path)}")
    if (overlap := manifest["measures"]["overlap"]) is not None:
        print(f"of the pairs of {manifest['measures']['overlap_with']}, selected again: {overlap:.1%}")
    print("promoted: latest.json names this run" if manifest["promoted"] else "not promoted: `mapjob promote` does it")
    names = ("run_id", "name", "note", "counts", "measures", "promoted", "checks")
    refused = promote and manifest["checks"] and not manifest["promoted"]  # else somebody promoted it, whatever failed
    exit_code = NOT_PROMOTED if refused else 0
    result = {name: manifest[name] for name in names} | {"run_path": run_path, "exit_code": exit_code}
    return result | manifest["spent"]
