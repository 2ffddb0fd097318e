"""The selection of a run file: by what pairs are ranked, which of them are kept, and with which further columns."""

from typing import Annotated, Literal

from pydantic import Field, create_model, model_validator

from mapjob.config.input import Section
from mapjob.metrics.columns import EACH_MODEL, MARGINS, REFERENCE
from mapjob.metrics.ensemble import VOTES
from mapjob.metrics.signals import SIGNALS, Signal, keyword_parameters
from mapjob.metrics.table import METRICS, PAIRINGS


def _parameters_of(name: str, signal: Signal) -> type[Section]:
    """The keys of a signal: the keyword-only parameters of its function, with their types, bounds and defaults."""
    return create_model(name, __base__=Section, __doc__=signal.about, **keyword_parameters(signal.function))


# Each signal is a column (or two) of the selection if it is given: `amapo_margin: {}` takes the defaults.
Signals = create_model(
    "Signals",
    __base__=Section,
    **{name: (_parameters_of(name, signal) | None, None) for name, signal in SIGNALS.items()},
)

Metric = Literal[*METRICS]
WITH_ALPHA = ("map", "map_signed")
Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class Keep(Section):
    """How much of the ranking is kept: exactly one of the five."""

    ratio: float | None = Field(None, ge=0, le=1, description="int(ratio * N) of the N ranked pairs")
    count: int | None = Field(None, ge=0, description="so many pairs")
    threshold: float | None = Field(None, allow_inf_nan=False, description="pairs whose score is at least this")
    tokens: int | None = Field(None, ge=0, description="the best pairs whose completion tokens together fit")

    between: tuple[Ratio, Ratio] | None = Field(
        None, description="[a, b]: ranks above int(a * N) up to int(b * N), such as the middle, or the end"
    )

    @model_validator(mode="after")
    def _one(self) -> "Keep":
        if self.between is not None and not self.between[0] < self.between[1]:
            raise ValueError("between is a share of the ranking and a larger one, such as [0.2, 0.6]")
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of ratio, count, threshold, tokens, between (given: {', '.join(given) or 'none'})"
            )
        return self


class Exclude(Section):
    """What is left out by name, before anything else is decided."""

    groups: tuple[str, ...] = Field((), description="values of the column input.columns.group")
    ids: str | None = Field(
        None, description="file of pair_ids: .txt (one a line), .csv, .jsonl or .parquet with a column pair_id"
    )


class Selection(Section):
    metric: Metric = Field("map", description="`mapjob rank --list` explains each")
    metrics: tuple[Metric, ...] = Field((), description="further metrics, each a column of the selection")
    signals: Signals = Field(Signals(), description="training signals, each a column of the selection")
    implicit: Literal["simpo", "dpo"] = Field(
        "simpo", description="the policy's margin: mean log-probability per token, or the policy against the reference"
    )
    scale: Literal["zscore", "raw", "calibrated"] = Field(
        "zscore", description="unit of both margins: standard deviations of this corpus, as they are, or log-odds"
    )
    alpha: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of the implicit margin; higher: what the policy knows sinks"
    )
    beta: float = Field(1.0, gt=0, allow_inf_nan=False, description="scales the implicit margin when scale is raw")
    seed: int = Field(0, ge=0, description="of the metric random and of the held-out prompts")
    keep: Keep = Field(Keep(ratio=0.4), description="how much of the ranking is kept: exactly one of the five")
    on_disagreement: Literal["keep", "relabel", "drop"] = Field(
        "keep", description="pairs whose label the reward model contradicts"
    )
    votes: Literal[*VOTES] | None = Field(
        None, description="which of several reward models contradict a label: majority, or all; null: their mean margin"
    )
    exclude: Exclude = Field(Exclude(), description="what is left out by name, before anything else is decided")
    where: str | None = Field(
        None,
        description="a condition in SQL over columns of the corpus and scores; pairs for which it is not true are left "
        "out (the extra `where`)",
    )
    verdicts: str | None = Field(
        None,
        description="file of answers of people, as `mapjob verdicts` writes it: pair_id, and swap, drop or keep as "
        "verdict; they hold against on_disagreement",
    )
    per_prompt: Annotated[int, Field(ge=1)] | None = Field(None, description="at most this many pairs of one prompt")
    quotas: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None,
        description="group -> its share of what is kept, 0 for none of it; other groups share what is left, best first",
    )
    near_duplicates: Share | None = Field(
        None, description="skip pairs whose words overlap this much (Jaccard) with a better one that is kept"
    )
    held_out: float = Field(0.0, ge=0, lt=1, description="share of the prompts that go to held_out/ and are not ranked")
    pairing: Literal[*PAIRINGS] = Field("best_worst", description="candidates only: which two responses pair up")
    pairs_per_record: int = Field(1, ge=1, description="candidates only: at most this many pairs per record")

    @model_validator(mode="after")
    def _consistent(self) -> "Selection":
        if self.quotas is not None and sum(self.quotas.values()) > 1 + 1e-9:
            raise ValueError(f"selection.quotas add up to {sum(self.quotas.values()):g}, more than the whole")
        if self.quotas is not None and (self.keep.threshold is not None or self.keep.between is not None):
            raise ValueError(
                "selection.quotas are shares of a size: keep ratio, count or tokens, no threshold and no between"
            )
        if self.pairing in ("best_worst", "best_sigma") and self.pairs_per_record > 1:
            raise ValueError(
                f"selection.pairing {self.pairing} gives one pair per record: take ranked, dcrm or map for more"
            )
        if self.votes is not None and self.on_disagreement == "keep":
            raise ValueError("selection.votes say which labels on_disagreement drops or relabels, and it keeps all")
        if self.signals.reward_goals is not None and len(self.signal_names) > 1:
            raise ValueError(
                "selection.signals.reward_goals changes the prompts, so it takes no other signal beside it"
            )
        return self

    @property
    def signal_names(self) -> list[str]:
        return [name for name, parameters in self.signals if parameters is not None]

    @property
    def columns(self) -> frozenset[str]:
        """Every column that ranking goes by, scored ones and margins (see metrics/table.py)."""
        methods = [METRICS[name] for name in (self.metric, *self.metrics)]
        methods += [SIGNALS[name] for name in self.signal_names]
        columns = {"reward_margin", f"{self.implicit}_margin"} | {name for method in methods for name in method.columns}
        columns |= {"chosen_num_tokens", "rejected_num_tokens"} if self.keep.tokens is not None else set()
        return frozenset(columns - {"implicit_margin"})

    @property
    def scored_columns(self) -> frozenset[str]:
        """Every column of a pair that has to be scored for it, pairing included."""
        columns = self.columns | {name for name in PAIRINGS[self.pairing].columns if name != "implicit_margin"}
        made = {part for name in columns for part in MARGINS.get(name, (name,))}
        return frozenset(made - {EACH_MODEL})

    @property
    def of_reference(self) -> list[str]:
        """What in it compares the policy with a reference, by name."""
        methods = {name: METRICS[name] for name in (self.metric, *self.metrics)}
        methods |= {name: SIGNALS[name] for name in self.signal_names}
        implicit = ["implicit: dpo"] if self.implicit == "dpo" else []
        needed = {"dpo_margin", *REFERENCE}
        return implicit + [name for name, method in methods.items() if needed & set(method.columns)]
