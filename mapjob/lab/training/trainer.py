"""TRL's DPO trainer on a selection: with other losses, and with the reference's log-probabilities from the columns."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from mapjob.errors import ConfigError
from mapjob.lab.training.losses import Batch
from mapjob.lab.training.shared_prompts import IGNORED, Joined, join, takes_joined
from mapjob.metrics.columns import REFERENCE

OVERLENGTH = "overlength"
OTHER_TOKENS = "other_tokens"
SAME_LOSS = 1e-6
REMEMBERED, SOLVED_OVER = 2_048, 256  # margins d of earlier pairs, and of the pairs over which gamma-PO is solved


class SelectionTrainer(DPOTrainer):
    """DPOTrainer that takes the reference's log-probabilities from the selection, so no reference is loaded.

    loss: of the pairs of a batch, (B,). columns: what the loss needs beside the model (COLUMNS). The dataset holds
    prompt, chosen, rejected, both `*_num_tokens` and those columns. A prompt is computed once for both sides, if the
    first batch has the same loss then.

    Stored sums hold for the tokens that were scored, and no others. So a pair is dropped if `max_length` cuts it
    elsewhere than scoring did (`overlength`) and, if the loss needs the reference, if this tokenizer gives it another
    number of tokens (`other_tokens`). `dropped` counts both.
    """

    def __init__(self, loss: Callable[[Batch], Tensor], columns: tuple[str, ...], args: DPOConfig, **trl: Any):
        assert args.precompute_ref_log_probs, "else TRL loads a reference model"
        self.loss, self.columns = loss, columns
        self.dropped: Counter[str] = Counter()
        self._may_join: bool | None = None  # not known yet
        self._margins, self._rng = torch.zeros(0), torch.Generator().manual_seed(args.seed)
        super().__init__(args=args, **trl)
        self._collate_tokens, self.data_collator = self.data_collator, self._collate

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: DPOConfig, dataset_name: str) -> Dataset:
        tokenised = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        overlength, other = _find_unlike_scored(tokenised, args.max_length)
        if not set(REFERENCE) <= set(self.columns):
            other[:] = False
        # TRL has dropped pairs whose prompt alone is too long.
        self.dropped[OVERLENGTH] = len(dataset) - len(tokenised) + int(overlength.sum())
        self.dropped[OTHER_TOKENS] = int(other.sum())
        kept = tokenised.select(np.flatnonzero(~(overlength | other)))
        if not len(kept):
            raise ConfigError(
                f"none of {len(dataset):,} pairs can be trained on: {self.dropped[OVERLENGTH]:,} are longer than "
                f"{args.max_length} tokens, {self.dropped[OTHER_TOKENS]:,} have other tokens than those scored",
                "the selection",
                "take a model with the policy's tokenizer and chat template, and the run's scoring.max_length",
            )
        return kept

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        return dataset  # it has them, or does not need them

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *self.columns]))

    def _collate(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = self._collate_tokens(examples)
        return batch | {name: torch.tensor([example[name] for example in examples]) for name in self.columns}

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Tensor:
        joined = join(inputs) if self._may_join is not False else None
        if joined is not None and self._may_join is None:
            self._may_join = self._keeps_loss(model, inputs, joined)
        joined = joined if self._may_join else None
        logps, aux_loss = self._read(model, inputs, joined)
        pairs = self._pairs(inputs, logps)
        loss = self.loss(replace(pairs, earlier_margins=self._draw_margins(len(logps) // 2))).mean()
        if model.training:
            self._margins = torch.cat([self._margins, pairs.simpo_margin.detach().float().cpu()])[-REMEMBERED:]
        return loss + self.router_aux_loss_coef * aux_loss if self.aux_loss_enabled else loss

    def _read(self, model: Any, inputs: dict[str, Tensor], joined: Joined | None) -> tuple[Tensor, Any]:
        """((2B,) sums of log-probabilities of completions, the chosen sides first; the routers' loss, if any)."""
        if joined is not None:
            return joined.sum_sides(model(**joined.inputs, use_cache=False, fused_lm_head=True).log_probs), None
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED),
            use_cache=False,
            fused_lm_head=True,
            **({"output_router_logits": True} if self.aux_loss_enabled else {}),
        )
        return outputs.log_probs.sum(1), outputs.aux_loss if self.aux_loss_enabled else None

    def _pairs(self, inputs: dict[str, Tensor], logps: Tensor) -> Batch:
        num_tokens = inputs["completion_mask"][:, 1:].sum(1).chunk(2)  # nothing predicts the first token of a sequence
        return Batch(*logps.chunk(2), *num_tokens, **{name: inputs[name] for name in self.columns})

    @torch.no_grad()
    def _keeps_loss(self, model: Any, inputs: dict[str, Tensor], joined: Joined) -> bool:
        """Whether this batch has the same loss if each prompt is computed once: then so do all."""
        if self.args.bf16 or self.aux_loss_enabled or not takes_joined(model):
            return False
        once, twice = (
            self.loss(self._pairs(inputs, self._read(model, inputs, how)[0])).mean().item() for how in (joined, None)
        )
        return abs(once - twice) <= SAME_LOSS * max(1.0, abs(twice))

    def _draw_margins(self, batch_size: int) -> Tensor:
        """d of earlier pairs, so many that they are SOLVED_OVER with the batch; as gamma-PO's authors draw them."""
        order = torch.randperm(len(self._margins), generator=self._rng)
        return self._margins[order[: max(0, SOLVED_OVER - batch_size)]]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        # Round a share of the steps down: rounded up, a training of one step has a learning rate of 0.
        if self.args.warmup_steps < 1:
            self.args.warmup_steps = int(self.args.warmup_steps * num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)


def _find_unlike_scored(tokenised: Dataset, max_length: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Pairs with other numbers of tokens than were scored: because max_length cuts them, or for another reason."""
    table = tokenised.with_format("arrow")[:]
    prompt = pc.list_value_length(table["prompt_ids"]).to_numpy()
    overlength, other = np.zeros(len(prompt), bool), np.zeros(len(prompt), bool)
    for side in ("chosen", "rejected"):
        whole = prompt + pc.list_value_length(table[f"{side}_ids"]).to_numpy()
        predicted = np.minimum(whole, max_length) - np.maximum(prompt, 1)  # nothing predicts the very first token
        unlike = predicted != table[f"{side}_num_tokens"].to_numpy()
        overlength |= unlike & (whole > max_length)
        other |= unlike
    return overlength, other & ~overlength
