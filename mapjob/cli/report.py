"""`mapjob report`: the report of a finished run, rebuilt."""

from pathlib import Path
from typing import Annotated

from typer import Option

from mapjob.cli.options import Run
from mapjob.errors import ConfigError
from mapjob.escaping import one_line
from mapjob.job.run import render_report
from mapjob.store.run_folder import open_run


def report(
    run: Run,
    examples: Annotated[
        int, Option(min=0, metavar="N", help="Texts of N selected pairs: best, last, contradicted.")
    ] = 0,
    out: Annotated[Path, Option(metavar="FILE", help="The file to write, also over one that is there.")] = Path(
        "report.html"
    ),
) -> None:
    """Rebuild the report of a finished run in a local file; optionally with example texts. The run folder stays.

    Without --examples it is the run's report.html to the byte, and holds no text of the corpus. With it, it has
    texts of some selected pairs, cut to 300 characters.

    Example: mapjob report runs/demo --examples 3 --out demo.html
    """
    text = render_report(open_run(run), examples)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        do = "give a file in a folder that exists and is writable"
        raise ConfigError(f"the report cannot be written: {error.strerror}", f"--out {out}", do) from None
    print(f"report: {one_line(out.absolute())}")
