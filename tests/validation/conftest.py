"""A known world of 400 pairs with models of a few steps, and a validation of it: all in this process, without Ray."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mapjob.lab.validation.config import Validation, parse_validation
from mapjob.lab.validation.validate import validate
from tests.without_ray import without_ray


@pytest.fixture(autouse=True)
def scored_here() -> Iterator[None]:
    with without_ray():
        yield


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("validation")
    return {
        "world": {"folder": str(folder / "world"), "num_pairs": 400, "policy_steps": 30, "reward_steps": 30},
        "run": {
            "output": {"path": str(folder / "out")},
            "scoring": {"max_length": 256},
            "selection": {"held_out": 0.3},
        },
        "metrics": {"map": [1, "calibrated"], "map_signed": [1], "bees": []},
        "random": 2,
        "seeds": 1,
        "bottom": True,
        "recipe": {"max_steps": [2], "batch_size": 4, "accumulate": 1, "learning_rate": 1e-3},
        "probe": {"pairs": 20},
        "max_new_tokens": 8,
        "models_folder": str(folder / "models"),
        "label_noise": 0,
        "disturb": {"noise": [0.5], "scale": [10], "length_bias": [1.0]},
    }


@pytest.fixture(scope="session")
def validation(tree: dict[str, Any]) -> Validation:
    return parse_validation(tree)


@pytest.fixture(scope="session")
def result(validation: Validation) -> dict[str, Any]:
    with without_ray():
        return validate(validation)


def arms_in(result: dict[str, Any]) -> dict[str, Path]:
    """The file of each arm, by its name."""
    return {path.stem: path for path in Path(result["path"]).parent.glob("*/arms/*")}
