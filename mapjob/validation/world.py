"""The known world of a validation: built where it does not stand, and the gold reward of any answer to its prompts."""

from collections.abc import Callable

from mapjob.validation.config import KnownWorld
from mapjob.world.build import build_world
from mapjob.world.corpus import tasks_of
from mapjob.world.tasks import grade

FLIPPED = "flipped"
QUALITY = ("chosen_quality", "rejected_quality")


def build(world: KnownWorld, say: Callable[[str], None]) -> None:
    """Make the world of these parameters in its folder, or find it there finished."""
    build_world(
        world.path,
        num_pairs=world.num_pairs,
        num_shards=max(1, world.num_pairs // 1000),
        seed=world.seed,
        flipped_share=world.flipped_share,
        training=world.training,
        say=say,
    )


def gold_rewards(world: KnownWorld, prompts: list[str], answers: list[str]) -> list[float]:
    """The gold reward of each answer to a prompt of the world's corpus, from 0 to 1."""
    tasks = {task.prompt: task for task in tasks_of(world.num_pairs, world.seed)}
    return [grade(tasks[prompt], answer) for prompt, answer in zip(prompts, answers, strict=True)]
