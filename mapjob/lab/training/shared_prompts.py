"""A prompt computed once for both completions: a pair as one sequence, whose completions do not see each other."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

PROMPT, CHOSEN, REJECTED, PADDING = range(4)  # what a token belongs to
IGNORED = -100  # as a label


@dataclass(frozen=True)
class Joined:
    """B pairs as B sequences of L tokens. The last token of a prompt stands before each of its completions, since it
    predicts the first token of both.

    inputs: of the model, also labels. part: (B, L), PROMPT to PADDING.
    """

    inputs: dict[str, Tensor]
    part: Tensor

    def sum_sides(self, log_probs: Tensor) -> Tensor:
        """(B, L - 1) log-probabilities of the labels behind each token -> (2B,), their sums, the chosen sides first."""
        part = self.part[:, 1:]
        return torch.cat([(log_probs * (part == side)).sum(1) for side in (CHOSEN, REJECTED)])


def join(batch: dict[str, Tensor]) -> Joined | None:
    """TRL's batch, (2B, T) with the chosen sides first, as sequences; None if that makes it no smaller.

    Nothing predicts the first token of an empty prompt's completion: such a batch is not joined.
    """
    ids, attention, completion = batch["input_ids"], batch["attention_mask"].bool(), batch["completion_mask"]
    texts = [row[mask] for row, mask in zip(ids, attention)]
    heads = [int(row[mask].argmax()) for row, mask in zip(completion, attention)]
    num_pairs = len(texts) // 2
    if not min(heads):
        return None
    rows, positions, parts = [], [], []
    for chosen, rejected, head in zip(texts[:num_pairs], texts[num_pairs:], heads):
        ends = [text[head - 1 :] for text in (chosen, rejected)]
        sizes = [head - 1, *map(len, ends)]
        rows.append(torch.cat([chosen[: head - 1], *ends]))
        positions.append(
            torch.cat([torch.arange(head - 1), *(torch.arange(head - 1, head - 1 + len(e)) for e in ends)])
        )
        parts.append(torch.repeat_interleave(torch.tensor([PROMPT, CHOSEN, REJECTED]), torch.tensor(sizes)))
    width = max(map(len, rows))
    if num_pairs * width >= ids.numel():
        return None
    part = pad_sequence(parts, batch_first=True, padding_value=PADDING).to(ids.device)
    joined = pad_sequence(rows, batch_first=True)
    is_first = torch.nn.functional.pad(part[:, 1:] != part[:, :-1], (1, 0), value=True)
    is_label = ((part == CHOSEN) | (part == REJECTED)) & ~is_first
    sees = (part[:, :, None] == part[:, None, :]) | (part[:, None, :] == PROMPT)
    sees &= torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
    mask = torch.zeros(sees.shape, device=ids.device).masked_fill(~sees, torch.finfo(torch.float32).min)
    inputs = {
        "input_ids": joined,
        "attention_mask": mask[:, None],
        "position_ids": pad_sequence(positions, batch_first=True).to(ids.device),
        "labels": joined.masked_fill(~is_label, IGNORED),
    }
    return Joined(inputs, part)


def takes_joined(model: Any) -> bool:
    """Whether a model lets its caller say what each token sees: attention in all layers, without windows."""
    network: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    config = network.config.get_text_config()
    return (
        network._supports_attention_backend
        and config._attn_implementation in ("eager", "sdpa")
        and not set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
        and not getattr(config, "sliding_window", None)
        and "position_ids" in inspect.signature(network.forward).parameters
    )
