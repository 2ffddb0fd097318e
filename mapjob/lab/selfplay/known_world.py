"""Self-play in a known world: it gives prompts, policy and reward model, and another one like it gives the judge."""

from typing import Any

from mapjob.lab.world.build import build_world
from mapjob.lab.world.items import ItemWorld

JUDGE_SEED = 1_000  # is added to a world's seed for the world of its judge
JUDGE_PROMPTS = 100  # nobody plays there
JUST_SEEN = 1e-3  # what a reason is worth to a judge: its answers have them, and no order of answers depends on it


def judge_world(world: ItemWorld) -> ItemWorld:
    """The world whose reward model judges in this one: made from another seed, of the same right answers, and without
    the bias for reasons.
    """
    bias = min(world.form_bias, JUST_SEEN)
    update = {"seed": world.seed + JUDGE_SEED, "num_prompts": JUDGE_PROMPTS, "form_bias": bias}
    return world.model_copy(update=update)


def fill_in(tree: dict[str, Any], world: ItemWorld) -> dict[str, Any]:
    """A self-play file with what the world decides of it, wherever the file does not say otherwise."""
    prompts = {"path": str(world.path / "corpus"), "group": "group"}
    return {
        "judge": judge_world(world).run_tree["models"]["reward"],
        **tree,
        "prompts": {**prompts, **(tree.get("prompts") or {})},
        "models": {**world.run_tree["models"], **(tree.get("models") or {})},
    }


def build_worlds(world: ItemWorld, judge_path: str | None) -> None:
    """Build the world, and that of its judge if this is the judge; what exists is taken as it is."""
    build_world(world.path, world)
    other = judge_world(world)
    if judge_path == str(other.path / "reward"):
        build_world(other.path, other)
