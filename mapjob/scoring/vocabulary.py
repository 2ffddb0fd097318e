"""Log-probabilities of tokens from hidden states, in tiles of the vocabulary: no row of logits ever exists whole."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from mapjob.errors import ModelError
from mapjob.scoring.models import adapter_active, forward_with_float32_head
from mapjob.scoring.spec import ScorerSpec

ROWS, TILE = {"cpu": 1024, "cuda": 8192}, {"cpu": 2048, "cuda": 16384}  # completion tokens and logits at one time
HEAD_TOLERANCE = 1e-4, 3e-5  # nats; and of the largest logit, since sums in float32 are that exact
# Rows are padded to whole vectors: the CPU rounds what is left over, and very few rows, in other ways.
ROW_MULTIPLE = 32

# What models call what they do to their logits: Gemma 2 and later, RecurrentGemma, xLSTM.
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


class VocabularyHead:
    """The output embedding of a causal model with its model's logit transforms: scales and soft caps.

    Of the adapter that is active while the head is made, what it does to the output embedding belongs to the head.
    """

    def __init__(self, model: nn.Module):
        output = model.get_output_embeddings()
        config = model.config.get_text_config()
        known = getattr(config, "unpadded_vocab_size", None)  # what is behind these tokens is no token (Inkling)
        self.weight, self._bias = output.weight[:known], getattr(output, "bias", None)
        self._low_rank: tuple[torch.Tensor, torch.Tensor] | None = None
        active = [] if getattr(output, "disable_adapters", True) else output.active_adapters
        for name in set(active) & set(getattr(output, "lora_A", ())):
            # Beside the weight, as the model itself has it: a sum of both would be rounded.
            down, up = output.lora_A[name].weight.float(), output.lora_B[name].weight.float() * output.scaling[name]
            self._low_rank = down.to(self.weight.device), up.to(self.weight.device)
        self._scale = _first_of(config, ("logit_scale",), 1.0) / _first_of(config, ("logits_scaling",), 1.0)
        self._divisor = _first_of(
            config, ("logits_mup_width_multiplier",), 1.0
        )  # of states, which rounds them (Inkling)
        self._cap = _first_of(config, CAPS, None)

    def token_logps(self, hidden_RH: torch.Tensor, targets_R: torch.Tensor) -> torch.Tensor:
        """log p of each target in float32, shape (R,). Target logit and normaliser come from the same tile."""
        rows = ROWS[hidden_RH.device.type]
        parts = zip(hidden_RH.split(rows), targets_R.split(rows))
        return torch.cat([self._logps_of_rows(hidden, targets) for hidden, targets in parts])

    def collision_logps(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """log sum_v p_v^2 in float32, shape (R,): the log-probability that two draws give one token."""
        return torch.cat([self._collisions_of_rows(hidden) for hidden in hidden_RH.split(ROWS[hidden_RH.device.type])])

    def _collisions_of_rows(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        num_rows = len(hidden_RH)
        total_R = squares_R = None
        for _, logits_RV in self._tiles(nn.functional.pad(hidden_RH, (0, 0, 0, -num_rows % ROW_MULTIPLE))):
            sum_R, square_R = logits_RV.logsumexp(1), (2 * logits_RV).logsumexp(1)
            total_R = sum_R if total_R is None else torch.logaddexp(total_R, sum_R)
            squares_R = square_R if squares_R is None else torch.logaddexp(squares_R, square_R)
        return (squares_R - 2 * total_R)[:num_rows]

    def _tiles(self, hidden_RH: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(first token, logits of its tile), over the vocabulary in tiles of equal width."""
        vocabulary = self.weight.shape[0]
        tile = -(-vocabulary // -(-vocabulary // TILE[hidden_RH.device.type]))
        for start in range(0, vocabulary, tile):
            yield start, self.logits(hidden_RH, start, start + tile)

    def _logps_of_rows(self, hidden_RH: torch.Tensor, targets_R: torch.Tensor) -> torch.Tensor:
        num_rows = len(hidden_RH)
        padding = -num_rows % ROW_MULTIPLE
        hidden_RH = nn.functional.pad(hidden_RH, (0, 0, 0, padding))
        targets_R = nn.functional.pad(targets_R, (0, padding))
        total_R = chosen_R = None
        for start, logits_RV in self._tiles(hidden_RH):
            inside_R = targets_R - start
            here_R = logits_RV.gather(1, inside_R.clamp(0, logits_RV.shape[1] - 1)[:, None])[:, 0]
            sum_R = logits_RV.logsumexp(1)
            if total_R is None:
                total_R, chosen_R = sum_R, here_R
            else:
                total_R = torch.logaddexp(total_R, sum_R)
                chosen_R = torch.where(inside_R >= 0, here_R, chosen_R)
        return (chosen_R - total_R)[:num_rows]

    def _divided(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        return hidden_RH if self._divisor == 1.0 else hidden_RH / self._divisor

    def logits_of(self, hidden_RH: torch.Tensor, token: int) -> torch.Tensor:
        """Of one token, in float64, shape (R,): each by itself, so that none depends on how many rows there are."""
        bias = 0.0 if self._bias is None else self._bias[token].double()
        hidden_RH = self._divided(hidden_RH.to(self.weight.device)).double()
        logits_R = ((hidden_RH * self.weight[token].double()).sum(1) + bias) * self._scale
        return logits_R if self._cap is None else (logits_R / self._cap).tanh() * self._cap

    def logits(self, hidden_RH: torch.Tensor, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Float32 logits of the tokens start to stop, shape (R, V)."""
        hidden_RH, weight_VH = self._divided(hidden_RH), self.weight[start:stop]
        bias_V = None if self._bias is None else self._bias[start:stop].float()
        if hidden_RH.dtype == torch.float32:
            logits_RV = nn.functional.linear(hidden_RH, weight_VH)
        elif hidden_RH.is_cuda:
            logits_RV = torch.mm(hidden_RH, weight_VH.t(), out_dtype=torch.float32)
        else:
            with _exact_in_bfloat16(hidden_RH.dtype == torch.bfloat16):
                logits_RV = nn.functional.linear(hidden_RH.float(), weight_VH.float())
        if bias_V is not None:
            logits_RV += bias_V
        if self._low_rank is not None:
            down_KH, up_VK = self._low_rank
            logits_RV += nn.functional.linear(nn.functional.linear(hidden_RH.float(), down_KH), up_VK[start:stop])
        if self._scale != 1.0:
            logits_RV *= self._scale
        return logits_RV if self._cap is None else logits_RV.div_(self._cap).tanh_().mul_(self._cap)


def _first_of(config: PreTrainedConfig, names: tuple[str, ...], default: float | None) -> float | None:
    """The first of these settings that a configuration has and that is not null or 0."""
    return next((value for name in names if (value := getattr(config, name, None))), default)


@contextmanager
def _exact_in_bfloat16(is_bfloat16: bool) -> Iterator[None]:
    """Run the CPU's float32 matmul in bf16, which is exact for bf16 values; its sums stay float32."""
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    try:
        if is_bfloat16:
            setting.fp32_precision = "bf16"
        yield
    finally:
        setting.fp32_precision = before


@torch.inference_mode()
def check_head(head: VocabularyHead, model: PreTrainedModel, spec: ScorerSpec) -> None:
    """Raises ModelError unless the head gives the log-probabilities of the model's own forward pass on a few tokens.

    Both in float32 and from the same states, so that a difference is one of the arithmetic of a head.
    """
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    ids_L = torch.arange(1, 17, device=model.device) * 11 % head.weight.shape[0]
    # transformers warns of pad tokens without a mask.
    ids_1L = ids_L[ids_L != (-1 if pad is None else pad)][None]
    with adapter_active(model, spec.adapter_name):
        output, states_1LH = forward_with_float32_head(model, model.get_output_embeddings(), ids_1L)
    theirs_LV, ours_LV = output[0].log_softmax(-1), head.logits(states_1LH[0].to(head.weight.device)).log_softmax(-1)
    drift = (theirs_LV - ours_LV.to(theirs_LV.device)).abs().max().item()
    absolute, relative = HEAD_TOLERANCE
    if not drift <= absolute + relative * output.abs().max().item():
        raise ModelError(
            f"the model transforms its logits in a way not known here (log-probabilities differ by {drift:.3g})",
            spec.where,
            "report the architecture, so that its transform can be added to scoring/vocabulary.py",
        )
