"""Reward heads: which tokens' states a reward is read from, and the reward they make, in float32 or better.

A plain head is transformers' sequence classification with one label. Other heads have a class each here, by family:
what a model's own code makes of states is not taken from it, but compared with them.
"""

from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mapjob.errors import ModelError, Reason, RowError
from mapjob.scoring.models import forward_with_float32_head
from mapjob.scoring.reward_families import Family, reward_family, trained_at_eos, value_head
from mapjob.scoring.spec import ScorerSpec
from mapjob.scoring.tokenizers import load_tokenizer
from mapjob.scoring.vocabulary import VocabularyHead, check_head

HEAD_TOLERANCE = 1e-4


class RewardHead(Protocol):
    def tokens(self, ids_L: np.ndarray) -> list[int]:
        """Positions in prompt and completion whose states make the reward. Raises RowError if there is none."""

    def __call__(self, states_CNH: torch.Tensor) -> torch.Tensor:
        """Rewards (C,) from the states at the N tokens of each of C completions."""


class LinearHead:
    """The `score` of transformers' sequence classification models, with one label."""

    def __init__(self, model: PreTrainedModel, spec: ScorerSpec):
        head = getattr(model, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1:
            do = "give a decoder-only sequence classification model with num_labels=1"
            raise ModelError("the reward model has no linear `score` head with one label", spec.where, do)
        self._weight_H = head.weight[0].double()
        self._bias = 0.0 if head.bias is None else head.bias.double()
        self._pad = getattr(model.config.get_text_config(), "pad_token_id", None)
        self._check(model, head, spec)

    @torch.inference_mode()
    def _check(self, model: PreTrainedModel, head: nn.Linear, spec: ScorerSpec) -> None:
        """Raises ModelError unless this gives the reward of the model's own forward pass, with pad tokens at
        the end and without: in float32, and from the same states.
        """
        ids_L = np.arange(1, 17) * 11 % model.get_input_embeddings().weight.shape[0]
        ids_L = ids_L[ids_L != self._pad]
        for tail in ([], [self._pad] * 2) if self._pad is not None else ([],):
            ids = np.concatenate([ids_L, np.array(tail, ids_L.dtype)])
            theirs, states_1LH = forward_with_float32_head(model, head, torch.from_numpy(ids).to(model.device)[None])
            _compare(self(states_1LH[:, self.tokens(ids)]).item(), theirs.item(), spec)

    def tokens(self, ids_L: np.ndarray) -> list[int]:
        """Where transformers reads the reward of one unpadded sequence: its last token that is not the pad token.

        Where pad == eos this is the token before the final end of turn, and the head was trained there.
        """
        if self._pad is None:
            return [len(ids_L) - 1]
        real = np.flatnonzero(ids_L != self._pad)
        return [int(real[-1]) if len(real) else 0]

    def __call__(self, states_CNH: torch.Tensor) -> torch.Tensor:
        # Products and sum by themselves: a matrix product with one column depends on how many rows it has.
        return (states_CNH[:, 0].to(self._weight_H.device).double() * self._weight_H).sum(1) + self._bias


class GatedObjectivesHead:
    """ArmoRM (arXiv 2406.12845): a gate, read where the assistant's turn opens, weighs the objectives read at the end.

    objectives = regression_layer(state at the end) · reward_transform_matrix
    gate = logit_scale · softmax(MLP(state at the gating token) / temperature)
    reward = Σ gate · objectives
    The names of the weights, the gating token (the first of the last assistant header, as its tokens are) and the end
    (before the first pad token) are those of RLHFlow/ArmoRM-Llama3-8B-v0.1.
    """

    HEADER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"

    def __init__(self, model: nn.Module, spec: ScorerSpec):
        names = ("regression_layer.", "reward_transform_matrix", "gating.")
        self._weights = {k: v.float().to(model.device) for k, v in _tensors(spec, names).items()}
        self._depth = sum(name.startswith("gating.layers.") and name.endswith(".weight") for name in self._weights)
        if self._depth == 0 or "regression_layer.weight" not in self._weights:
            do = "give the folder as its authors published it"
            raise ModelError("the reward model lacks the weights of its gate", spec.where, do)
        self._temperature = spec.files.config.get("gating_temperature", 10)
        self._pad = spec.files.config.get("pad_token_id")
        tokenizer = load_tokenizer(spec.files)
        self._header = np.array(tokenizer(self.HEADER, add_special_tokens=False)["input_ids"])

    def tokens(self, ids_L: np.ndarray) -> list[int]:
        windows = np.lib.stride_tricks.sliding_window_view(ids_L, min(len(self._header), len(ids_L)))
        starts = np.flatnonzero((windows == self._header[: len(ids_L)]).all(1))
        if not len(starts) or len(ids_L) < len(self._header):
            raise RowError(Reason.TEMPLATE_ERROR, f"no assistant header {self.HEADER!r} for the reward model's gate")
        pads = np.flatnonzero(ids_L == self._pad) if self._pad is not None else ()
        end = int(pads[0]) - 1 if len(pads) and pads[0] else len(ids_L) - 1
        return [end, int(starts[-1])]

    def __call__(self, states_CNH: torch.Tensor) -> torch.Tensor:
        last_CH, x = states_CNH.float().unbind(1)
        objectives = nn.functional.linear(last_CH, self._weights["regression_layer.weight"])
        for i in range(self._depth):
            name = f"gating.layers.{i}"
            x = nn.functional.linear(x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))
            x = x.relu() if i < self._depth - 1 else x
        gate = torch.softmax(x / self._temperature, 1) * self._weights.get("gating.logit_scale", 1.0)
        return (gate * (objectives @ self._weights["reward_transform_matrix"])).sum(1).double()


class ValueHead:
    """A linear head beside a language model, with one number per token, read at a text's last one (`last_token` in
    models that have one).

    OpenRLHF's reward models (`trained_at_eos`) are trained on texts that end with EOS, without the line ends that a
    template writes behind it; where config.json says so, their rewards are standardised: (reward - mean) / std.
    """

    def __init__(self, model: PreTrainedModel, spec: ScorerSpec):
        name, config = value_head(spec.files), spec.files.config
        head = getattr(model, name, None)  # of a class that came with the model; transformers' own have none
        weights = head.state_dict(prefix=f"{name}.") if head is not None else _tensors(spec, (f"{name}.",))
        self._weight_H = weights[f"{name}.weight"][0].to(model.device).double()
        self._bias = weights.get(f"{name}.bias", torch.zeros(1)).to(model.device).double()
        is_standardised = config.get("normalize_reward") and "mean" in config
        self._mean, self._std = (config["mean"], config["std"]) if is_standardised else (0.0, 1.0)
        self._eos: int | None = None
        if trained_at_eos(spec.files):
            tokenizer = load_tokenizer(spec.files)
            self._eos = tokenizer.eos_token_id
            self._line_ends = [
                number for token, number in tokenizer.get_vocab().items() if _ends_line(tokenizer, token)
            ]
        if head is not None:
            self._check(model, head, spec)

    @torch.inference_mode()
    def _check(self, model: PreTrainedModel, head: nn.Linear, spec: ScorerSpec) -> None:
        """Raises ModelError unless this gives the reward of the forward pass of the model's own class."""
        size, last = model.get_input_embeddings().weight.shape[0], spec.encoding.last_token
        ids_1L = torch.tensor([[*(i * 11 % size for i in range(1, 17)), last]], device=model.device)
        mask_1L = torch.ones_like(ids_1L)
        theirs, states_1LH = forward_with_float32_head(model, head, ids_1L, attention_mask=mask_1L)
        _compare(self(states_1LH[:, -1:]).item(), theirs.item(), spec)

    def tokens(self, ids_L: np.ndarray) -> list[int]:
        if self._eos is None:
            return [len(ids_L) - 1]
        last = max(np.flatnonzero(~np.isin(ids_L, self._line_ends)), default=0)
        if ids_L[last] != self._eos:
            detail = "the chat template ends no answer with EOS, where OpenRLHF's reward models are read"
            raise RowError(Reason.TEMPLATE_ERROR, detail)
        return [int(last)]

    def __call__(self, states_CNH: torch.Tensor) -> torch.Tensor:
        states_CH = states_CNH[:, 0].to(self._weight_H.device).double()
        return ((states_CH * self._weight_H).sum(1) + self._bias - self._mean) / self._std


def _compare(ours: float, theirs: float, spec: ScorerSpec) -> None:
    """Raises ModelError unless a reward made here is the model's own."""
    # A head that makes no number makes none of any row, and the rows say so.
    if not np.isclose(ours, theirs, HEAD_TOLERANCE, HEAD_TOLERANCE, equal_nan=True):
        raise ModelError(
            f"the model makes its reward in a way not known here ({theirs:.6g} is {ours:.6g} here)",
            spec.where,
            "report the architecture, so that its head can be added to scoring/rewards.py",
        )


def _ends_line(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether a token is nothing but line ends."""
    text = tokenizer.convert_tokens_to_string([token])
    return bool(text) and not text.strip("\n")


class LogitHead:
    """The logit that a causal language model gives one token (`reward_token`) after the text's last one."""

    def __init__(self, model: PreTrainedModel, spec: ScorerSpec):
        head = VocabularyHead(model)
        check_head(head, model, spec)
        self._head, self._token = head, spec.files.reward_token
        if self._token >= (size := len(head.weight)):
            where = f"models.{spec.name}.reward_token: {self._token}"
            raise ModelError(f"the model has {size} tokens, from 0", where, "give one of them")

    def tokens(self, ids_L: np.ndarray) -> list[int]:
        return [len(ids_L) - 1]

    def __call__(self, states_CNH: torch.Tensor) -> torch.Tensor:
        return self._head.logits_of(states_CNH[:, 0], self._token)


def _tensors(spec: ScorerSpec, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The weights of these names from the model's safetensors files."""
    weights = {}
    for file in sorted(spec.files.folder(weights=True).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            weights |= {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith(prefixes)}  # noqa: SIM118
    return weights


HEADS: dict[Family, Any] = {
    "classifier": LinearHead,
    "gated": GatedObjectivesHead,
    "value": ValueHead,
    "logit": LogitHead,
}


def reward_head(model: nn.Module, spec: ScorerSpec) -> RewardHead:
    return HEADS[reward_family(spec.files, spec.name)](model, spec)
