"""The two scorers: log-probabilities of completions, and rewards. Encoded records in, columns out; no Ray here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from mapjob.errors import ModelError, Reason, RowError
from mapjob.scoring.batches import (
    DEFAULT_TOKENS_PER_BATCH,
    TokenSequence,
    batches,
    forward_halving,
    padded,
    unique_sequences,
)
from mapjob.scoring.encode import Encoded
from mapjob.scoring.models import default_device, hidden_states, load_model, probe_padding
from mapjob.scoring.spec import ScorerSpec

HEAD_ROWS = 2048  # completion tokens whose logits exist at one time


@dataclass(frozen=True)
class Scored:
    """Columns of a unit, row-aligned with the records, and what they cost."""

    table: pa.Table
    num_tokens: int  # tokens that went through the model, each distinct sequence once, padding not counted


class Scorer:
    """A model on a device. `score` returns the same numbers whatever the order and company of the records."""

    def __init__(self, spec: ScorerSpec, tokens_per_batch: int | None = None, device: torch.device | None = None):
        self.spec, self.device = spec, device or default_device()
        self.model = load_model(spec, self.device)
        self.tokens_per_batch = tokens_per_batch or DEFAULT_TOKENS_PER_BATCH[self.device.type]
        probe_padding(self.model, spec)
        self._forward = self._rewards if spec.kind == "rewards" else self._logps
        if spec.kind == "rewards":
            self._head, self._pad = _score_head(self.model, spec), self.model.config.get_text_config().pad_token_id
        else:
            self._head = self.model.get_output_embeddings()
            self._probe_head()

    def score(self, records: Sequence[Encoded | RowError]) -> Scored:
        """Columns `logps` and `num_tokens`, or `rewards`: lists of length N, null where `reason` says why."""
        sequences, index = unique_sequences(records)
        values: list[float | None] = [None] * len(sequences)
        for batch in batches([len(s.ids) for s in sequences], self.tokens_per_batch):
            for i, value in zip(batch, forward_halving(self._forward, [sequences[i] for i in batch])):
                values[i] = value
        rows = [self._row(record, [values[i] for i in places]) for record, places in zip(records, index)]
        return Scored(_table(rows, self.spec.kind), sum(len(s.ids) for s in sequences))

    def _row(self, record: Encoded | RowError, values: list[float | None]) -> "_Row":
        if isinstance(record, RowError):
            return _Row(reason=record.reason, detail=record.detail)
        if any(value is None for value in values):
            return _Row(reason=Reason.OUT_OF_MEMORY, detail="the row alone does not fit on the device")
        if not np.isfinite(values).all():
            return _Row(reason=Reason.NOT_FINITE, detail=f"{self.spec.name} returned {values}")
        num_tokens = [len(completion) - (len(record.prompt) == 0) for completion in record.completions]
        return _Row(values, num_tokens, record.truncated, record.boundary_moved)

    @torch.inference_mode()
    def _logps(self, batch: list[TokenSequence]) -> np.ndarray:
        """Summed log-probability of each completion in nats: float32 log-softmax, float64 sums. Shape (B,)."""
        hidden_BLH = hidden_states(self.model, padded(batch, self.device))
        first = [max(s.start, 1) for s in batch]
        # The state at position t - 1 predicts token t: only those states ever meet the vocabulary.
        hidden_TH = torch.cat([hidden_BLH[b, f - 1 : len(s.ids) - 1] for b, (s, f) in enumerate(zip(batch, first))])
        targets_T = torch.from_numpy(np.concatenate([s.ids[f:] for s, f in zip(batch, first)])).to(self.device)
        logps_T = torch.cat(
            [self._token_logps(h, t) for h, t in zip(hidden_TH.split(HEAD_ROWS), targets_T.split(HEAD_ROWS))]
        )
        owner_T = np.repeat(np.arange(len(batch)), [len(s.ids) - f for s, f in zip(batch, first)])
        return np.bincount(owner_T, logps_T.cpu().numpy().astype(np.float64), minlength=len(batch))

    def _token_logps(self, hidden_TH: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
        logits_TV = self._logits(hidden_TH)
        return logits_TV.gather(1, targets_T[:, None])[:, 0] - logits_TV.logsumexp(1)

    def _logits(self, hidden_TH: torch.Tensor) -> torch.Tensor:
        """Float32 logits (T, V) with the transforms of the model's own forward pass: scales and soft caps."""
        config = self.model.config.get_text_config()
        logits_TV = self._head(hidden_TH).float()
        if getattr(config, "logit_scale", None):  # Cohere
            logits_TV *= config.logit_scale
        if getattr(config, "logits_scaling", None):  # Granite
            logits_TV /= config.logits_scaling
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits_TV = cap * torch.tanh(logits_TV / cap)
        return logits_TV

    @torch.inference_mode()
    def _probe_head(self) -> None:
        """Raises ModelError unless body, head and transforms give the log-probabilities of the model's own forward."""
        ids_1L = (torch.arange(1, 17, device=self.device) * 11 % self._head.weight.shape[0])[None]
        own_LV = self.model(input_ids=ids_1L, use_cache=False).logits[0].float().log_softmax(-1)
        ours_LV = self._logits(hidden_states(self.model, ids_1L)[0]).log_softmax(-1)
        drift = (own_LV - ours_LV).abs().max().item()
        if not drift <= (1e-4 if self.spec.files.dtype == "float32" else 5e-2):
            raise ModelError(
                f"the model transforms its logits in a way not known here (log-probabilities differ by {drift:.3g})",
                f"models.{self.spec.name}.path: {self.spec.files.path}",
                "report the architecture, so that its transform can be added to scoring/scorers.py",
            )

    @torch.inference_mode()
    def _rewards(self, batch: list[TokenSequence]) -> np.ndarray:
        """Reward of each sequence, read at one token with a float32 head. Shape (B,)."""
        hidden_BLH = hidden_states(self.model, padded(batch, self.device))
        last_B = torch.tensor([_last_token(s.ids, self._pad) for s in batch], device=self.device)
        hidden_BH = hidden_BLH[torch.arange(len(batch), device=self.device), last_B]
        return self._head(hidden_BH.float())[:, 0].cpu().numpy().astype(np.float64)


def _last_token(ids: np.ndarray, pad: int | None) -> int:
    """Where transformers reads the reward of one unpadded sequence: its last token that is not the pad token.

    Where pad == eos this is the token before the final end of turn, and the head was trained there.
    """
    real = np.flatnonzero(ids != pad) if pad is not None else ()
    return int(real[-1]) if len(real) else (len(ids) - 1 if pad is None else 0)


def _score_head(model: nn.Module, spec: ScorerSpec) -> nn.Module:
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise ModelError(
            "the reward model has no linear `score` head with one label",
            f"models.{spec.name}.path: {spec.files.path}",
            "give a decoder-only sequence classification model with num_labels=1",
        )
    return head.float()


@dataclass(frozen=True)
class _Row:
    values: list[float | None] | None = None
    num_tokens: list[int] | None = None
    truncated: bool = False
    boundary_moved: bool = False
    reason: Reason | None = None
    detail: str | None = None


def _table(rows: list[_Row], kind: str) -> pa.Table:
    columns = {
        "row": pa.array(range(len(rows)), pa.int32()),
        kind: pa.array([r.values for r in rows], pa.list_(pa.float64())),
    }
    if kind == "logps":
        columns["num_tokens"] = pa.array([r.num_tokens for r in rows], pa.list_(pa.int32()))
    columns["truncated"] = pa.array([r.truncated for r in rows], pa.bool_())
    columns["boundary_moved"] = pa.array([r.boundary_moved for r in rows], pa.bool_())
    columns["reason"] = pa.array([r.reason.value if r.reason else None for r in rows], pa.string())
    columns["detail"] = pa.array([r.detail for r in rows], pa.string())
    return pa.table(columns)
