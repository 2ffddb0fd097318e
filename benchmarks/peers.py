"""Peers that score pairs: transformers, plain and length-sorted, TRL, lm-evaluation-harness; checked against float64.

Each peer is a function (model, sequences, batch size) -> scores, a sequence being prompt ids and completion ids.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

Sequences = list[tuple[list[int], list[int]]]
OURS, OURS_MAY, PEERS_MAY = "mapjob", 1.05, 4.0  # bfloat16: mean error over that of plain transformers, batch 1
# lm-eval's log p of each token is itself a bfloat16: off by up to 2**-8 of it, and over 256 tokens that mostly cancels.
LM_EVAL_ROUNDS = 2**-8 / 256**0.5


@dataclass(frozen=True)
class Peer:
    engine: str
    score: Callable[[PreTrainedModel, Sequences, int], list[float]]
    batch_size: int
    weak: bool = False  # measured only on the pairs of a policy, where it is cheap

    def __str__(self) -> str:
        return f"{self.engine}, batch {self.batch_size}"


def chunks(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))


@torch.inference_mode()
def by_transformers(model: PreTrainedModel, sequences: Sequences, batch_size: int) -> list[float]:
    """Right-padded batches in the given order, every logit in float32."""
    scores: list[float] = []
    for batch in chunks(sequences, batch_size):
        ids_BL = _right_padded([[*prompt, *completion] for prompt, completion in batch])
        mask_BL = _right_padded([[1] * (len(prompt) + len(completion)) for prompt, completion in batch])
        logits = model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits
        if logits.dim() == 2:  # a reward model's
            scores += logits[:, 0].tolist()
            continue
        scored_BL = _right_padded([[0] * len(prompt) + [1] * len(completion) for prompt, completion in batch])[:, 1:]
        logps_BLV = logits[:, :-1].float().log_softmax(-1)
        logps_BL = logps_BLV.gather(-1, ids_BL[:, 1:, None])[..., 0]
        scores += (logps_BL * scored_BL).sum(-1).tolist()
    return scores


def by_length_sorted(model: PreTrainedModel, sequences: Sequences, batch_size: int) -> list[float]:
    """The same on batches of similar length, which pads least."""
    order = sorted(range(len(sequences)), key=lambda i: -_length(sequences[i]))
    return _unsorted(by_transformers(model, [sequences[i] for i in order], batch_size), order)


@torch.inference_mode()
def by_lm_eval(model: PreTrainedModel, sequences: Sequences, batch_size: int) -> list[float]:
    """As lm-evaluation-harness collates: longest first, no mask, last token not fed, log_softmax in the model's dtype.

    Two things it does are left out, both in its favour: its argmax over the vocabulary, which tells if greedy decoding
    would give the text, and its sum in the model's dtype, which in bfloat16 has 3 digits.
    """
    order = sorted(range(len(sequences)), key=lambda i: (-_length(sequences[i]), sequences[i]))
    scores: list[float] = []
    for batch in chunks([sequences[i] for i in order], batch_size):
        ids_BL = _right_padded([[*prompt, *completion][:-1] for prompt, completion in batch])
        logps_BLV = model(input_ids=ids_BL, use_cache=False).logits.log_softmax(-1)
        for logps_LV, (prompt, completion) in zip(logps_BLV, batch):
            own_CV = logps_LV[len(prompt) - 1 : len(prompt) + len(completion) - 1]
            scores.append(own_CV.gather(-1, torch.tensor(completion)[:, None]).float().sum().item())
    return _unsorted(scores, order)


def by_trl(model: PreTrainedModel, sequences: Sequences, batch_size: int) -> list[float]:
    """TRL's reference log-probabilities; sequences alternate between chosen and rejected, a batch counts pairs."""
    trainer, collator = _trl_trainer(model)
    pairs = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for (prompt, chosen), (_, rejected) in zip(sequences[::2], sequences[1::2])
    ]
    scores: list[float] = []
    for batch in chunks(pairs, batch_size):
        chosen_B, rejected_B = trainer.compute_ref_log_probs(trainer.ref_model, collator(batch))
        scores += torch.stack([chosen_B, rejected_B], 1).flatten().tolist()
    return scores


@lru_cache(maxsize=1)
def _trl_trainer(model: PreTrainedModel) -> tuple[Any, Any]:
    """A DPOTrainer whose reference is the model, and its collator. The model to train never runs, so it is tiny."""
    from trl import DPOConfig, DPOTrainer  # slow to import, and --quick has no use for it
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    arguments = DPOConfig(
        output_dir=f"{model.name_or_path}-trl",
        precompute_ref_log_probs=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = DPOTrainer(
        model=LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)),
        ref_model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": "1", "chosen": "2", "rejected": "3"}]),
    )
    return trainer, DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)


# Each part from the strongest peer, as expected, to the weakest.
PEERS = [
    Peer("transformers", by_transformers, 1),
    Peer("lm-eval", by_lm_eval, 1),
    Peer("length-sorted", by_length_sorted, 2),
    Peer("trl", by_trl, 1),
    Peer("transformers", by_transformers, 8),
    Peer("transformers", by_transformers, 2, weak=True),
    Peer("lm-eval", by_lm_eval, 8, weak=True),
    Peer("length-sorted", by_length_sorted, 4, weak=True),
    Peer("trl", by_trl, 8, weak=True),
    Peer("transformers", by_transformers, 4, weak=True),
    Peer("length-sorted", by_length_sorted, 8, weak=True),
    Peer("transformers", by_transformers, 16, weak=True),
    Peer("transformers", by_transformers, 32, weak=True),
]
BATCH_1, BATCH_8 = str(PEERS[0]), str(PEERS[4])
QUICK = [PEERS[0], PEERS[4]]


class Disagreement(Exception):
    """A scorer's scores are wrong, so its time means nothing."""


@torch.inference_mode()
def reference(model: PreTrainedModel, sequences: Sequences) -> list[float]:
    """Scores in float64, one sequence at a time, by transformers' plainest attention (the model is loaded with it)."""
    scores = []
    for prompt, completion in sequences:
        ids_L = torch.tensor([*prompt, *completion])
        if model.get_output_embeddings() is None:
            scores.append(model(input_ids=ids_L[None], use_cache=False).logits.item())
            continue
        # The head only for positions that predict a completion token: rows of logits are independent.
        logits_CV = model(input_ids=ids_L[None], use_cache=False, logits_to_keep=len(completion) + 1).logits[0, :-1]
        scores.append(logits_CV.log_softmax(-1).gather(1, ids_L[len(prompt) :, None]).sum().item())
    return scores


def check(scores: dict[str, list[float]], true: list[float], kind: str, dtype: str) -> dict[str, float]:
    """The mean error per scorer. Raises Disagreement if one is further from float64 than its dtype explains."""
    exact = np.array(true)
    errors = {who: np.abs(np.array(own) - exact) for who, own in scores.items()}
    means = {who: float(error.mean()) for who, error in errors.items()}
    for who, error in errors.items():
        if dtype == "float32":
            may = np.maximum(1e-3, 1e-5 * np.abs(exact)) if kind == "logps" else np.full(len(exact), 1e-4)
            worst = int(np.argmax(np.where(np.isfinite(error), error / may, np.inf)))
            good, what = error[worst] <= may[worst], f"a score by {error[worst]:.3g}, {may[worst]:.3g} allowed"
        else:
            # There are few scores: an error above the limit must be more than chance.
            above = error - (OURS_MAY if who == OURS else PEERS_MAY) * errors[BATCH_1]
            if who.startswith("lm-eval"):
                above -= LM_EVAL_ROUNDS * np.abs(exact)
            good = above.mean() <= 2 * above.std() / len(above) ** 0.5
            what = f"scores by {means[who]:.3g} in the mean, plain transformers by {means[BATCH_1]:.3g}"
        if not good:
            raise Disagreement(f"{who} misses the float64 reference in {dtype}: {what}")
    return means


def _right_padded(rows: list[list[int]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def _length(sequence: tuple[list[int], list[int]]) -> int:
    return len(sequence[0]) + len(sequence[1])


def _unsorted(scores: list[float], order: list[int]) -> list[float]:
    return [scores[place] for place in np.argsort(order)]
