"""The columns of a selection that each objective is computed from."""

from typing import Any

from mapjob.config.training import Objective
from mapjob.errors import ConfigError
from mapjob.metrics.columns import REFERENCE

# Beside the pair itself. An objective without any needs nothing but the model that is trained.
COLUMNS: dict[Objective, tuple[str, ...]] = {
    "dpo": REFERENCE,
    "simpo": (),
    "repo": (),
    "amapo": (),
    "gamma_po": (),
    "madpo": (*REFERENCE, "reward_margin"),
    "bpo": REFERENCE,
    "mmpo": (*REFERENCE, "reward_margin"),
}


def needs_reference(objective: Objective) -> bool:
    return set(REFERENCE) <= set(COLUMNS[objective])


def check_run(manifest: dict[str, Any], objective: Objective, where: str) -> None:
    """Raises ConfigError when a run holds no pairs, not in TRL's layout, or without the columns of the objective."""
    layout = manifest["config"]["output_format"]
    if layout != "trl":
        do = "`mapjob rank` the run file with --set output_format=trl, then train on that run"
        raise ConfigError(f"the selection is in the layout of {layout}, and TRL trains on its own", where, do)
    if not manifest["counts"]["selected"]:
        raise ConfigError("no pair is selected, so there is nothing to train on", where, "raise selection.keep")
    # By the scorer, not by the names of columns: the corpus may have brought columns of these names itself.
    if needs_reference(objective) and "reference" not in manifest["fingerprints"]:
        free = ", ".join(name for name, columns in COLUMNS.items() if not columns)
        raise ConfigError(
            f"{objective} needs {' and '.join(REFERENCE)}, and this run scored no reference",
            where,
            f"set models.reference and selection.implicit: dpo in the run file and run it again; or take {free}",
        )
