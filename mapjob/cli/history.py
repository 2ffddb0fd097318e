"""`mapjob history`: the runs of an output folder side by side."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mapjob.cli.options import Result
from mapjob.errors import ConfigError
from mapjob.escaping import one_line
from mapjob.report.history import Night, history_page, history_text
from mapjob.store.output import Output
from mapjob.store.run_folder import find_promoted


def history(
    output: Annotated[str, Argument(metavar="OUTPUT", help="The output.path of a run file.")],
    last: Annotated[int, Option(min=1, metavar="N", help="The last N runs.")] = 30,
    html: Annotated[Path | None, Option(metavar="FILE", help="Also draw them: one HTML file without a script.")] = None,
    every: Annotated[
        bool, Option("--all", help="Also experiments, which `mapjob rank` made without --promote.")
    ] = False,
) -> Result:
    """Show the last runs side by side: rows, labels, lengths, cut-off, groups and overlap, from their manifests alone.

    Example: mapjob history runs/demo --last 30 --html history.html
    """
    promoted = find_promoted(output)
    runs = [run.manifest for run in Output(output).list_runs()[0]]
    shown = [run for run in runs if every or run.get("for_use", True) or run["run_id"] == promoted][-last:]
    if not shown:
        do = "`mapjob run` makes one; --all shows experiments too"
        raise ConfigError("no run of this output was made to be used", output, do)
    nights = [Night.of(manifest, promoted) for manifest in shown]
    print(history_text(nights))
    if html is not None:
        try:
            html.write_text(history_page(nights, output), encoding="utf-8")
        except OSError as error:
            do = "give a file in a folder that exists and is writable"
            raise ConfigError(f"the page cannot be written: {error.strerror}", f"--html {html}", do) from None
        print(f"page: {one_line(html)}")
    return {"nights": [night.as_json for night in nights]}
