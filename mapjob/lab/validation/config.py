"""The validation file: the run file, the metrics to compare, the training recipe and, optionally, a known world."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from mapjob.config.load import parse_config, read_tree
from mapjob.config.run import Config, Model, Section
from mapjob.config.selection import WITH_ALPHA, Metric, Share, Signals
from mapjob.errors import ConfigError
from mapjob.lab.training.config import Recipe
from mapjob.lab.world.build import KnownWorld
from mapjob.lab.world.items import ItemWorld
from mapjob.metrics.columns import EACH_MODEL, REFERENCE, G
from mapjob.metrics.table import METRICS
from mapjob.ranking.compare import Choice, choices

Positive = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["calibrated"]
Spread = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ArmRecipe(Recipe):
    """The training recipe of every arm. By epochs, a smaller selection has fewer steps."""

    max_steps: tuple[Positive, ...] | None = Field(
        None, description="instead of epochs: the same number of steps for all arms; several: one training per number"
    )


class Probe(Section):
    """The policy after a short DPO training, against the policy before: what some metrics go by. For reducible_loss it
    is trained on clean development pairs, for BeeS and the difficulty gap on random pairs, as their authors do.
    """

    pairs: Positive = Field(2000, description="random pairs to train it on; development pairs: all that are clean")
    learning_rate: float | None = Field(None, gt=0)


class Disturbances(Section):
    """Changes of the rewards, in their standard deviations, to see whether selections follow; nothing is trained."""

    noise: tuple[Spread, ...] = (0.5, 1.0)
    scale: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = (10.0,)
    length_bias: tuple[Spread, ...] = Field((0.5, 1.0), description="per standard deviation of a completion's length")


def _kind_of(world: Any) -> str:
    return world.get("kind", "forms") if isinstance(world, dict) else world.kind


class Validation(Section):
    explained_by = "mapjob config schema --command validate"

    run: Config
    world: (
        Annotated[Annotated[KnownWorld, Tag("forms")] | Annotated[ItemWorld, Tag("items")], Discriminator(_kind_of)]
        | None
    ) = None
    worlds: Positive = Field(1, description="so many known worlds, from as many seeds: intervals are then between them")
    metrics: dict[Metric, tuple[Alpha, ...]] = Field(description="metric: its alphas; [] for a metric without")
    ratios: tuple[Share, ...] = (0.4,)
    full: bool = Field(True, description="also train on every pair")
    random: int = Field(5, ge=0, description="random subsets per size; the training's seed changes with the subset")
    seeds: int = Field(5, ge=0, description="trainings per other selection; with random: 0, 0 trains nothing")
    bottom: bool = Field(False, description="also train on what map ranks last")
    middle: tuple[Metric, ...] = Field((), description="also train on the middle of these metrics' orders")
    recipe: ArmRecipe = ArmRecipe()
    probe: Probe | None = None
    development: float = Field(0.5, ge=0, lt=1, description="share of the held-out prompts to choose a recipe by")
    groups: tuple[str, ...] | None = Field(None, description="test on held-out prompts of these groups only")
    max_new_tokens: Positive = Field(512, description="of an answer to a held-out prompt")
    models_folder: str = Field("validation/models", description="local folder of the probe and of models under test")
    label_noise: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="how well metrics find wrong labels: swap this share; 0: those of a known world",
    )
    disturb: Disturbances | None = Field(None, description="how selections follow disturbed rewards")

    @model_validator(mode="after")
    def _consistent(self) -> "Validation":
        selection = self.run.selection
        if not selection.held_out:
            raise ValueError("run.selection.held_out is 0: give a share of the prompts to test on, such as 0.2")
        if trusted := self.run.models.with_own_code:
            raise ValueError(
                f"{', '.join(trusted)}: only `mapjob run` lets a model run code of its own (trust_remote_code)"
            )
        for key, is_set in {
            "near_duplicates": selection.near_duplicates is not None,
            "pairs_per_record": selection.pairs_per_record > 1,
            "signals": bool(selection.signal_names),
        }.items():
            if is_set:
                raise ValueError(f"run.selection.{key} has no place in a validation: remove it")
        for name, alphas in self.metrics.items():
            if (name in WITH_ALPHA) != bool(alphas):
                has = "has an alpha: give one or more" if name in WITH_ALPHA else "has no alpha: write []"
                raise ValueError(f"metrics.{name} {has}")
        if "random" in self.metrics:
            raise ValueError("metrics.random: `random` is a key of its own, the number of subsets")
        if self.worlds > 1 and self.world is None:
            raise ValueError("worlds: only a known world is made from seeds; give world")
        if self.bottom and "map" not in self.metrics:
            raise ValueError("bottom: it is that of map, so name map as one of metrics")
        if without := [name for name in self.middle if name not in self.metrics]:
            raise ValueError(f"middle: name {', '.join(without)} as one of metrics too")
        if self.label_noise == 0 and not (self.world and self.world.flipped_share):
            raise ValueError("label_noise 0 is for a known world with wrong labels; give the share of labels to swap")
        return self

    def each_world(self) -> Iterator["Validation"]:
        """This validation of one world after the other; of itself, if it is of one or none."""
        if self.worlds == 1:
            yield self
            return
        assert self.world is not None, "checked above"
        for seed in range(self.world.seed, self.world.seed + self.worlds):
            world = self.world.model_copy(update={"seed": seed})
            run = parse_config({**self.run.model_dump(), **world.run_tree})
            yield self.model_copy(update={"world": world, "run": run, "worlds": 1})

    @property
    def at_random(self) -> list[Choice]:
        """The random selections, one per size."""
        return [Choice("random", None, ratio) for ratio in self.ratios]

    @property
    def choices(self) -> list[Choice]:
        """Every other selection; all pairs first."""
        by_metric = [choice for name, alphas in self.metrics.items() for choice in choices([name], alphas, self.ratios)]
        return ([Choice("explicit", None, 1.0)] if self.full else []) + by_metric

    @property
    def at_the_bottom(self) -> list[Choice]:
        """What map ranks last, if it is asked for: by its first alpha."""
        return choices(["map"], self.metrics["map"][:1], self.ratios) if self.bottom else []

    @property
    def in_the_middle(self) -> list[Choice]:
        """The middle of orders, of each size; by a metric's first alpha."""
        return [choice for name in self.middle for choice in choices([name], self.metrics[name][:1], self.ratios)]

    @property
    def of_probe(self) -> tuple[Metric, ...]:
        """The metrics that use a probe."""
        needed = {G, *REFERENCE}
        return () if self.probe is None else tuple(name for name in self.metrics if needed & {*METRICS[name].columns})

    @property
    def everything(self) -> Config:
        """The run that scores the corpus, and publishes all pairs and the held-out pairs."""
        from mapjob.lab.training.losses import needs_reference  # with torch, slow to import

        one_model = isinstance(self.run.models.reward, Model)
        refused = {name for name in self.metrics if one_model and EACH_MODEL in METRICS[name].columns}
        metrics = tuple(name for name in self.metrics if name not in refused.union(self.of_probe))
        update = {"metric": "map", "scale": "zscore", "alpha": 1.0, "metrics": metrics, "signals": Signals()}
        update |= {"keep": {"ratio": 1.0}, "quotas": None, "per_prompt": None}
        tree = self.run.model_dump()
        tree["selection"] |= update
        tree["output_format"] = "trl"
        of_reference = self.probe is not None or needs_reference(self.recipe.objective)
        if of_reference and tree["models"]["reference"] is None:
            tree["models"]["reference"] = tree["models"]["policy"]
        return parse_config(tree)


def load_validation(path: str, overrides: list[str] | tuple[str, ...] = ()) -> Validation:
    """Read a validation file; `run` may also be the path of a run file. Raises ConfigError with every fault."""
    of_run = [text.removeprefix("run.") for text in overrides if text.startswith("run.")]
    tree = read_tree(path, [text for text in overrides if not text.startswith("run.")])
    if isinstance(tree.get("run"), str):
        tree["run"] = read_tree(tree["run"], of_run)
    else:
        tree = read_tree(path, overrides)
    return parse_validation(tree, path)


def parse_validation(tree: dict[str, Any], where: str = "config") -> Validation:
    """Validate a plain mapping; with a known world, `run` needs no input and no models."""
    if tree.get("world") is not None and isinstance(tree.get("run"), dict):
        if taken := {"input", "models"} & tree["run"].keys():
            do = "remove them, or remove world"
            raise ConfigError(f"run has {' and '.join(sorted(taken))}, which the known world gives", where, do)
        world = parse_config(tree["world"], where, ItemWorld if _kind_of(tree["world"]) == "items" else KnownWorld)
        tree = {**tree, "run": {**world.run_tree, **tree["run"]}}
    return parse_config(tree, where, Validation)
