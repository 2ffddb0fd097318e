"""The training signals of a run file and their parameters; formulas and sources stand with their functions."""

from typing import Annotated

from pydantic import Field

from mapjob.config.section import Section

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AmapoMargin(Section):
    beta: Positive = 2.0
    beta_inside: bool = Field(False, description="beta inside the exponent, as a note of the paper has it")


class AlphaDpoMargin(Section):
    gamma_beta_ratio: float = Field(allow_inf_nan=False)
    alpha: float = Field(0.1, allow_inf_nan=False)


class GammaPoMargin(Section):
    """beta, gamma0/beta and tau of the paper: 10, 0.4, 10 for Llama-3; 10, 0.5, 20 for Gemma-2; 2.5, 0.15, 10 for
    Mistral; 10, 0.3, 3 for Qwen2.5."""

    beta: Positive = 10.0
    gamma_beta_ratio: Positive = 0.4
    tau: Positive = 10.0


class MadpoWeight(Section):
    c_max: float = Field(2.0, gt=1, allow_inf_nan=False)
    c_min: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="null: 1 / c_max")
    rate: Positive = 1.0
    tau: float = Field(6.9068, allow_inf_nan=False)
    scale: Positive = Field(1.0, description="brings the reward margin to log-odds")


class BpoMargin(Section):
    beta: Positive = 0.1
    alpha: Positive = 0.3


class RepoLoss(Section):
    gamma: float = Field(0.5, allow_inf_nan=False)


class MmpoTarget(Section):
    gamma: Positive = Field(1.0, description="brings the reward margin to log-odds")


class WpoWeight(Section):
    pass


class RewardGoals(Section):
    system_role: bool = Field(True, description="false: the goal stands before the user's turn")


class Signals(Section):
    """Each a column (or two) of the selection where it is given: `amapo_margin: {}` takes the defaults."""

    amapo_margin: AmapoMargin | None = None
    alpha_dpo_margin: AlphaDpoMargin | None = None
    gamma_po_margin: GammaPoMargin | None = None
    madpo_weight: MadpoWeight | None = None
    bpo_margin: BpoMargin | None = None
    repo_loss: RepoLoss | None = None
    mmpo_target: MmpoTarget | None = None
    wpo_weight: WpoWeight | None = None
    reward_goals: RewardGoals | None = Field(None, description="two rows a pair, with a goal in the prompt")

    @property
    def names(self) -> list[str]:
        return [name for name, value in self if value is not None]
