"""`mapjob init`: a run file for a corpus and two models."""

from pathlib import Path
from typing import Annotated

import yaml
from typer import Argument, Option

from mapjob.cli.options import Overrides, Result
from mapjob.config.load import apply_overrides, parse_config
from mapjob.config.template import write_run_file
from mapjob.corpus.plan import describe_plan, make_plan
from mapjob.corpus.recognise import to_yaml
from mapjob.errors import ConfigError
from mapjob.escaping import one_line

ROWS_PER_UNIT = 2_000
HEADER = "# A run file of mapjob, as `mapjob init` wrote it. What is behind a # at the start of a line is a default.\n"
MODEL = "Folder, or the name of a model on the hub."


def init(
    corpus: Annotated[str, Argument(metavar="CORPUS", help="input.path: folder, file, URL, or org/name of the hub.")],
    policy: Annotated[str, Option(metavar="MODEL", help=MODEL)],
    reward: Annotated[str, Option(metavar="MODEL", help=MODEL)],
    output: Annotated[
        str | None, Option(metavar="DIR", help="output.path, a folder or URL. Default: output/<corpus>.")
    ] = None,
    out: Annotated[Path, Option(metavar="FILE", help="The run file to write.")] = Path("run.yaml"),
    overrides: Overrides = None,
    force: Annotated[bool, Option("--force", help="Write over a file that is there.")] = False,
) -> Result:
    """Write a run file for a corpus and two models: how the corpus is read as it is recognised, every key explained.

    No model is looked at, and a corpus that `mapjob read` would refuse is refused here in the same words.

    Example: mapjob init data/pairs --policy org/policy --reward org/reward-model --out run.yaml
    """
    if out.exists() and not force:
        raise ConfigError("this file exists", f"--out {out}", "give another one, or --force")
    name = corpus.rstrip("/").rpartition("/")[2].partition("@")[0].split(".")[0].strip("*") or "pairs"
    tree = {"input": {"path": corpus}, "output": {"path": output or f"output/{name}"}}
    tree["models"] = {"policy": {"path": policy}, "reward": {"path": reward}}
    apply_overrides(tree, overrides or ())
    plan = make_plan(parse_config(tree, "mapjob init").input, True, ROWS_PER_UNIT)
    for line in describe_plan(plan):
        print(one_line(line))
    tree["input"] |= yaml.safe_load(to_yaml(plan.corpus.reading))
    text = HEADER + write_run_file(tree)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        do = "give a file in a folder that is writable"
        raise ConfigError(f"the run file cannot be written: {error.strerror}", f"--out {out}", do) from None
    print(f"run file: {one_line(out)}")
    print(f"next: mapjob plan {one_line(out)}, then mapjob run {one_line(out)}")
    return {"run_file": str(out), "rows": plan.num_rows}
