"""`mapjob sweep`: what other metrics, alphas and ratios would select, before anything is trained."""

from typing import Annotated, get_args

from typer import Option

from mapjob.cli.options import Limit, Overrides, Ranked, Result
from mapjob.config.selection import Metric
from mapjob.errors import ConfigError
from mapjob.escaping import one_line
from mapjob.job.rank import sweep_job
from mapjob.ranking.compare import CALIBRATED, Choice, choices
from mapjob.report.sweep import as_json as swept_json
from mapjob.report.sweep import sweep_text


def sweep(
    source: Ranked,
    alpha: Annotated[
        str, Option(help="Numbers, or `calibrated` for margins in log-odds.")
    ] = "0.25,0.5,1,2.5,calibrated",
    ratio: Annotated[str, Option(help="Shares of the pairs to keep.")] = "0.1,0.25,0.4",
    metric: Annotated[str, Option(help="Names of `mapjob rank --list`.")] = "map,map_signed,explicit,implicit_small",
    overrides: Overrides = None,
    limit: Limit = None,
) -> Result:
    """Compare selections from the stored scores: overlap, labels, lengths, groups and margins. No model is loaded.

    Example: mapjob sweep runs/demo --alpha 0.25,1,2.5 --ratio 0.4 --metric map,explicit
    """
    wanted = _choices(metric, alpha, ratio)
    swept, url = sweep_job(source, wanted, limit, overrides or ())
    print(sweep_text(swept))
    print(f"sweep: {one_line(url)} (sweep.json, overlap.svg)")
    return {"sweep_path": url, **swept_json(swept)}


def _choices(metric: str, alpha: str, ratio: str) -> list[Choice]:
    metrics = [name.strip() for name in metric.split(",")]
    for name in metrics:
        if name not in get_args(Metric):
            raise ConfigError(f"no metric is called {name!r}", "--metric", "`mapjob rank --list` names them all")
    alphas = [CALIBRATED if a.strip() == CALIBRATED else _number(a, "--alpha") for a in alpha.split(",")]
    ratios = [_number(part, "--ratio") for part in ratio.split(",")]
    if not all(0 < share <= 1 for share in ratios):
        raise ConfigError(f"a share is above 0 and at most 1: {ratio}", "--ratio", "write e.g. --ratio 0.1,0.4")
    return choices(metrics, alphas, ratios)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"not a number of 0 or more: {text!r}", where, "write numbers with commas between them")
    return value
