"""A scorer: a model on a device that turns encoded records into columns. No Ray here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from mapjob.errors import Reason, RowError
from mapjob.scoring.backbone import Body
from mapjob.scoring.budget import Budget, tokens_that_fit
from mapjob.scoring.encode import Encoded
from mapjob.scoring.models import arithmetic, default_device, load_model, wearing
from mapjob.scoring.pack_layout import Layout, Padded, on_device
from mapjob.scoring.packing import Pack, halves, shared_prompts
from mapjob.scoring.rewards import reward_head
from mapjob.scoring.spec import ScorerSpec
from mapjob.scoring.vocabulary import VocabularyHead, check_head

OUT_OF_MEMORY = RowError(Reason.OUT_OF_MEMORY, "the row alone does not fit on the device")


@dataclass(frozen=True)
class Scored:
    """Columns of a unit, row-aligned with the records, and what they cost."""

    table: pa.Table
    num_tokens: int  # tokens that went through the model: a prompt once for its completions, padding not counted


class Scorer:
    """A model on a device. `score` returns the same numbers whatever the order and company of the records."""

    def __init__(
        self,
        spec: ScorerSpec,
        tokens_per_batch: int | Literal["auto"] = "auto",
        device: torch.device | None = None,
        model: PreTrainedModel | None = None,
    ):
        """model: as `load_model` gives it, to share one among scorers; None loads the scorer's own."""
        self.spec, self.device = spec, device or default_device()
        model = model or load_model([spec], self.device)
        self.body = Body(model, spec)
        if spec.kind == "rewards":
            self._head, self._read = reward_head(model, spec), self._rewards
        else:
            self._head = VocabularyHead(model, spec)
            self._read = self._logps if spec.kind == "logps" else self._collisions
            with wearing(model, spec):
                check_head(self._head, *self._plain_pass(model), spec)
        if tokens_per_batch == "auto":
            self.budget = tokens_that_fit(model.config, model.dtype, self.device)
        else:
            self.budget = Budget(tokens_per_batch, "as the run file says")

    def __str__(self) -> str:
        where = f"{self.device.type} in {arithmetic(self.spec.files.dtype, self.device)}"
        if self.body.why_not_packed:
            return f"{self.spec.name}: length-sorted batches on {where}, because {self.body.why_not_packed}"
        return f"{self.spec.name}: packs with shared prompts on {where}, {self.budget}"

    def score(self, records: Sequence[Encoded | RowError]) -> Scored:
        """Columns `logps` and `num_tokens`, `rewards`, or `collision_logps`: lists of length N, null where `reason`
        says why.
        """
        groups, index = shared_prompts(records)
        parts: list[tuple[list[int], torch.Tensor]] = []
        failed: dict[int, RowError] = {}
        num_tokens = 0
        with self.body.at_work():
            for pack in self.body.cut(groups, self.budget.tokens):
                num_tokens += sum(group.num_tokens for group in pack)
                parts += self._forward_halving(pack, failed)
        values = np.full(sum(len(group.completions) for group in groups), np.nan)
        # Only here does the device have to be waited for.
        for places, scores in parts:
            values[places] = scores.cpu().numpy()
        rows = [
            self._row(record, values[places], [failed[p] for p in places if p in failed])
            for record, places in zip(records, index)
        ]
        return Scored(_table(rows, self.spec.kind), num_tokens)

    def _forward_halving(self, pack: Pack, failed: dict[int, RowError]) -> list[tuple[list[int], torch.Tensor]]:
        """(places, scores) of a pack. One that does not fit is halved; a completion that does not fit alone failed."""
        try:
            with torch.inference_mode():
                return [self._read(self.body.lay(pack), failed)]
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not (isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if (parts := halves(pack)) is None:
            failed[pack[0].places[0]] = OUT_OF_MEMORY
            return []
        return [scores for part in parts for scores in self._forward_halving(part, failed)]

    def _logps(self, laid: Layout | Padded, failed: dict[int, RowError]) -> tuple[list[int], torch.Tensor]:
        """Summed log-probability of each completion in nats: float32 log-softmax, float64 sums. Shape (C,)."""
        reading, head = laid.reading, self._head.weight.device
        states_RH = self.body.states(laid, reading.predicting_R).to(head)
        logps_R = self._head.token_logps(states_RH, on_device(reading.targets_R, head)).double()
        return reading.places, torch.stack([own.sum() for own in logps_R.split(reading.num_scored_C.tolist())])

    def _collisions(self, laid: Layout | Padded, failed: dict[int, RowError]) -> tuple[list[int], torch.Tensor]:
        """Sum over each completion's tokens of log sum_v p_v^2 where they were predicted (WPO). Shape (C,)."""
        reading = laid.reading
        states_RH = self.body.states(laid, reading.predicting_R).to(self._head.weight.device)
        collisions_R = self._head.collision_logps(states_RH).double()
        return reading.places, torch.stack([own.sum() for own in collisions_R.split(reading.num_scored_C.tolist())])

    def _rewards(self, laid: Layout | Padded, failed: dict[int, RowError]) -> tuple[list[int], torch.Tensor]:
        """Reward of each completion, float64. Shape (C,)."""
        reading, places, rows = laid.reading, [], []
        for c, place in enumerate(reading.places):
            try:
                rows.append([reading.token(c, i) for i in self._head.tokens(reading.sequence(c))])
                places.append(place)
            except RowError as error:
                failed[place] = error
        if not rows:
            return [], torch.zeros(0)
        states_RH = self.body.states(laid, np.concatenate(rows))
        return places, self._head(states_RH.view(len(places), -1, states_RH.shape[1]))

    @torch.inference_mode()
    def _plain_pass(self, model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits of the model's own forward pass, last hidden states) of the same few tokens."""
        vocabulary, pad = self._head.weight.shape[0], model.config.get_text_config().pad_token_id
        ids_L = torch.arange(1, 17, device=self.device) * 11 % vocabulary
        ids_1L = ids_L[ids_L != pad][None]  # transformers warns of pad tokens without a mask
        output = model(input_ids=ids_1L, use_cache=False)
        return output.logits[0], self.body.network(input_ids=ids_1L, use_cache=False).last_hidden_state[0]

    def _row(self, record: Encoded | RowError, values: np.ndarray, failures: list[RowError]) -> "_Row":
        if isinstance(record, RowError):
            failures = [record]
        if failures:
            return _Row(reason=failures[0].reason, detail=failures[0].detail)
        if not np.isfinite(values).all():
            return _Row(reason=Reason.NOT_FINITE, detail=f"{self.spec.name} returned {values.tolist()}")
        num_tokens = [len(completion) - (len(record.prompt) == 0) for completion in record.completions]
        return _Row(values.tolist(), num_tokens, record.truncated, record.boundary_moved)


@dataclass(frozen=True)
class _Row:
    values: list[float] | None = None
    num_tokens: list[int] | None = None
    truncated: bool = False
    boundary_moved: bool = False
    reason: Reason | None = None
    detail: str | None = None


def _table(rows: list[_Row], kind: str) -> pa.Table:
    columns = {kind: pa.array([r.values for r in rows], pa.list_(pa.float64()))}
    if kind == "logps":
        columns["num_tokens"] = pa.array([r.num_tokens for r in rows], pa.list_(pa.int32()))
    columns["truncated"] = pa.array([r.truncated for r in rows], pa.bool_())
    columns["boundary_moved"] = pa.array([r.boundary_moved for r in rows], pa.bool_())
    columns["reason"] = pa.array([r.reason.value if r.reason else None for r in rows], pa.string())
    columns["detail"] = pa.array([r.detail for r in rows], pa.string())
    return pa.table(columns)
