"""Scorers: a model on a device that turns encoded records into columns. One reader per kind of column. No Ray here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from mapjob.errors import Reason, RowError
from mapjob.scoring.backbone import Backbone
from mapjob.scoring.budget import Budget, tokens_that_fit
from mapjob.scoring.encode import FLAGS, Encoded
from mapjob.scoring.models import adapter_active, arithmetic, as_model_error, default_device, load_model
from mapjob.scoring.pack_layout import Layout, Padded, Reading, on_device
from mapjob.scoring.packing import Pack, halves, shared_prompts
from mapjob.scoring.rewards import RewardHead, reward_head
from mapjob.scoring.spec import ScorerSpec
from mapjob.scoring.vocabulary import VocabularyHead, check_head

OUT_OF_MEMORY = RowError(Reason.OUT_OF_MEMORY, "the row alone does not fit on the device")


@dataclass(frozen=True)
class Scored:
    """Columns of a unit, row-aligned with the records, and what they cost."""

    table: pa.Table
    num_tokens: int  # tokens that went through the model: a prompt once for its completions, padding not counted


class ScoreReader(Protocol):
    def read(self, laid: Layout | Padded, failed: dict[int, RowError]) -> tuple[list[int], torch.Tensor]:
        """(ids of completions, their scores (C,)) of a pack; completions that have no score go into `failed`."""


def make_scorer(
    spec: ScorerSpec,
    tokens_per_batch: int | Literal["auto"] = "auto",
    device: torch.device | None = None,
    model: PreTrainedModel | None = None,
) -> "Scorer":
    """model: as `load_model` gives it, to share one among scorers; None loads the scorer's own."""
    device = device or default_device()
    model = model or load_model(spec.files, spec.kind, spec.name, device)
    do = "report the architecture, or give a model of another one"
    with as_model_error("the model does not do what scoring asks of it", spec.files, spec.where, do):
        backbone = Backbone(model, spec)
        reader: ScoreReader
        if spec.kind == "rewards":
            reader = RewardReader(backbone, reward_head(model, spec))
        else:
            with adapter_active(model, spec.adapter_name):
                head = VocabularyHead(model)
            check_head(head, model, spec)
            reader = LogpsReader(backbone, head) if spec.kind == "logps" else CollisionReader(backbone, head)
        if tokens_per_batch == "auto":
            budget = tokens_that_fit(model.config, model.dtype, device)
        else:
            budget = Budget(tokens_per_batch, "as the run file says")
    return Scorer(spec, backbone, reader, budget)


@dataclass
class Scorer:
    """A model on a device. `score` returns the same numbers whatever the order and company of the records."""

    spec: ScorerSpec
    backbone: Backbone
    reader: ScoreReader
    budget: Budget

    def __str__(self) -> str:
        where = f"{self.device.type.upper()}, {arithmetic(self.spec.files.dtype, self.device)}"
        if self.backbone.why_not_packed:
            return f"{self.spec.name}: {where}, length-sorted batches because {self.backbone.why_not_packed}"
        return f"{self.spec.name}: {where}, shared-prompt packing, {self.budget}"

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def score(self, records: Sequence[Encoded | RowError]) -> Scored:
        """Columns `logps` and `num_tokens`, `rewards`, or `collision_logps`: lists of length N, null where `reason`
        says why.
        """
        records = [self._check_tokens(record) for record in records]
        groups, completion_ids = shared_prompts(records)
        parts: list[tuple[list[int], torch.Tensor]] = []
        failed: dict[int, RowError] = {}
        num_tokens = 0
        with self.backbone.at_work():
            for pack in self.backbone.cut(groups, self.budget.tokens):
                num_tokens += sum(group.num_tokens for group in pack)
                parts += self._read_halving(pack, failed)
        values = np.full(sum(len(group.completions) for group in groups), np.nan)
        # Only here does the device have to be waited for.
        for ids, scores in parts:
            values[ids] = scores.cpu().numpy()
        rows = [
            self._row(record, values[ids], [failed[i] for i in ids if i in failed])
            for record, ids in zip(records, completion_ids)
        ]
        return Scored(pa.Table.from_pylist(rows, _schema(self.spec.kind)), num_tokens)

    def _check_tokens(self, record: Encoded | RowError) -> Encoded | RowError:
        """A refusal for a record with a token that the model has no embedding for."""
        if isinstance(record, RowError):
            return record
        largest = max(int(ids.max()) for ids in (record.prompt, *record.completions) if len(ids))
        if largest < (size := self.backbone.num_embeddings):
            return record
        return RowError(Reason.CONTROL_TOKENS, f"holds token {largest}, and {self.spec.name} has {size} embeddings")

    def _read_halving(self, pack: Pack, failed: dict[int, RowError]) -> list[tuple[list[int], torch.Tensor]]:
        """What the reader makes of a pack. One that does not fit is halved; a completion that does not fit fails."""
        try:
            with torch.inference_mode():
                return [self.reader.read(self.backbone.lay(pack), failed)]
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not (isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if (parts := halves(pack)) is None:
            failed[pack[0].completion_ids[0]] = OUT_OF_MEMORY
            return []
        return [scores for part in parts for scores in self._read_halving(part, failed)]

    def _row(self, record: Encoded | RowError, values: np.ndarray, failures: list[RowError]) -> dict[str, Any]:
        if isinstance(record, RowError):
            failures = [record]
        elif not failures and not np.isfinite(values).all():
            failures = [RowError(Reason.NOT_FINITE, f"{self.spec.name} returned {values.tolist()}")]
        if failures:
            reason, detail = failures[0].reason.value, failures[0].detail
            return {**dict.fromkeys(FLAGS, False), "reason": reason, "detail": detail}
        return {
            self.spec.kind: values.tolist(),
            "num_tokens": [len(completion) - (len(record.prompt) == 0) for completion in record.completions],
            **{flag: getattr(record, flag) for flag in FLAGS},
        }


def _schema(kind: str) -> pa.Schema:
    flags = [pa.field(name, pa.bool_()) for name in FLAGS]
    num_tokens = [pa.field("num_tokens", pa.list_(pa.int32()))] if kind == "logps" else []
    reasons = [pa.field(name, pa.string()) for name in ("reason", "detail")]
    return pa.schema([pa.field(kind, pa.list_(pa.float64())), *num_tokens, *flags, *reasons])


@dataclass
class LogpsReader:
    """Summed log-probability of each completion in nats: float32 log-softmax, float64 sums."""

    backbone: Backbone
    head: VocabularyHead

    def read(self, laid: Layout | Padded, failed: dict[int, RowError]) -> tuple[list[int], torch.Tensor]:
        device = self.head.weight.device
        states_RH = self.backbone.states(laid, laid.reading.predicting_R).to(device)
        return _sums(laid.reading, self.head.token_logps(states_RH, on_device(laid.reading.targets_R, device)))


@dataclass
class CollisionReader:
    """Sum over each completion's tokens of log sum_v p_v^2 where they were predicted (WPO)."""

    backbone: Backbone
    head: VocabularyHead

    def read(self, laid: Layout | Padded, failed: dict[int, RowError]) -> tuple[list[int], torch.Tensor]:
        states_RH = self.backbone.states(laid, laid.reading.predicting_R).to(self.head.weight.device)
        return _sums(laid.reading, self.head.collision_logps(states_RH))


def _sums(reading: Reading, values_R: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Of the values of each completion's tokens, in float64."""
    parts = values_R.double().split(reading.num_scored_C.tolist())
    return reading.completion_ids, torch.stack([part.sum() for part in parts])


@dataclass
class RewardReader:
    """Reward of each completion, float64; a completion in which the head finds nothing to read fails."""

    backbone: Backbone
    head: RewardHead

    def read(self, laid: Layout | Padded, failed: dict[int, RowError]) -> tuple[list[int], torch.Tensor]:
        reading, ids, rows = laid.reading, [], []
        for c, completion_id in enumerate(reading.completion_ids):
            try:
                rows.append([reading.token(c, i) for i in self.head.tokens(reading.sequence(c))])
                ids.append(completion_id)
            except RowError as error:
                failed[completion_id] = error
        if not rows:
            return [], torch.zeros(0)
        states_RH = self.backbone.states(laid, np.concatenate(rows))
        return ids, self.head(states_RH.view(len(ids), -1, states_RH.shape[1]))
