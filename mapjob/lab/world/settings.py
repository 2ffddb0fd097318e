"""How the two models of a world are trained."""

from dataclasses import asdict, dataclass

HIDDEN_SIZE = 128


@dataclass(frozen=True)
class Training:
    """The two trainings. Steps are numbers, not seconds, so that a seed gives the same models on a slow machine.

    reward_flipped: share of the reward model's own training labels that are wrong. hidden_size: of both models.
    """

    policy_steps: int = 600
    reward_steps: int = 700
    reward_flipped: float = 0.0
    hidden_size: int = HIDDEN_SIZE

    @property
    def parameters(self) -> dict[str, float]:
        """The steps, and what differs from the demo: so a world of before the rest could be chosen still stands."""
        defaults = asdict(Training())
        steps = ("policy_steps", "reward_steps")
        return {name: value for name, value in asdict(self).items() if name in steps or value != defaults[name]}


DEFAULT_TRAINING = Training()
