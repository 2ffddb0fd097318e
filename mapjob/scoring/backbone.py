"""A model without its head: packs in, last hidden states out; length-sorted batches for a model that takes no packs.

Packing is verified by a probe when the model is loaded: a few short texts as one pack and each alone.
"""

import inspect
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from mapjob.errors import ModelError
from mapjob.escaping import first_line
from mapjob.scoring.attention import NAME, Segments, attending
from mapjob.scoring.models import adapter_active, arithmetic, network_of
from mapjob.scoring.pack_layout import Layout, Padded, layout, on_device, pad
from mapjob.scoring.packing import Group, Pack, batches, packs
from mapjob.scoring.spec import ScorerSpec

WINDOW = re.compile("window|chunk|original_max_position|block_size|topk_tokens|index_topk")
ONE_BY_ONE = ("cpu",)  # where batches are slower than that
SHORT, PAST = 20, 4  # tokens: of the longest short text of a probe; how far its long text leads past a window
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}  # relative to the largest state


class Backbone:
    """`cut`, `lay` and then `states` of a pack, inside `at_work`.

    `why_not_packed` says why the model gets padded batches instead, or is None.
    """

    def __init__(self, model: PreTrainedModel, spec: ScorerSpec):
        self.network = network_of(model)
        self.device = model.device
        self._model, self._spec = model, spec
        # Whether a model that takes no packs gets its sequences one by one.
        self._one_by_one = self.device.type in ONE_BY_ONE or self._depends_on_length
        with adapter_active(model, spec.adapter_name):
            self.why_not_packed = self._config_forbids_packs() or self._probe_packs()
            if self.why_not_packed:
                self._probe_padding()

    @property
    def num_embeddings(self) -> int:
        """How many tokens the model knows."""
        return self._model.get_input_embeddings().weight.shape[0]

    @property
    def _multiple(self) -> int:
        """Lengths are padded to a multiple of this: on CPU so that each thread's share is whole vectors in any case."""
        return math.lcm(32, torch.get_num_threads()) if self.device.type == "cpu" else 128

    def cut(self, groups: list[Group], tokens_per_batch: int) -> Iterable[Pack]:
        """The groups in the packs, or batches, that `states` takes."""
        if not self.why_not_packed:
            return packs(groups, tokens_per_batch)
        return batches(groups, 1 if self._one_by_one else tokens_per_batch)

    def lay(self, pack: Pack) -> Layout | Padded:
        """The tokens of a pack as the model takes them; `reading` says where its completions lie among them.

        A sequence by itself is never padded: its model may do other things with more tokens.
        """
        if self.why_not_packed:
            return pad(pack, self._multiple if len(pack) > 1 else 1)
        return layout(pack, self._multiple)

    def states(self, laid: Layout | Padded, rows_R: np.ndarray) -> torch.Tensor:
        """Last hidden states (R, H) of some of the tokens of what was laid out."""
        ids_T = on_device(laid.reading.ids_T, self.device)
        if isinstance(laid, Padded):
            # No attention mask: a causal model's token never sees the padding behind it, so a mask could only cost.
            with _one_thread():
                states = self.network(input_ids=ids_T.view(-1, laid.width), use_cache=False).last_hidden_state
            return states.flatten(0, 1)[on_device(rows_R, states.device)]
        positions_T = on_device(laid.positions_T, self.device)
        with attending(Segments.of(laid, self.device)) as segments:
            output = self.network(input_ids=ids_T[None], position_ids=positions_T[None], use_cache=False)
        self._windows = segments.windows
        states = output.last_hidden_state[0]
        return states[on_device(rows_R, states.device)]

    @property
    def _depends_on_length(self) -> bool:
        """Rotary angles that change for all tokens with the longest position: sequences must not meet."""
        config, longest = self._model.config.get_text_config(), self._spec.encoding.scoring.max_length
        for rope in _rope_settings(config):
            if rope.get("rope_type", rope.get("type")) in ("dynamic", "longrope"):
                original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
                return longest > getattr(config, "original_max_position_embeddings", original)
        return False

    def _config_forbids_packs(self) -> str | None:
        kinds = set(getattr(self._model.config.get_text_config(), "layer_types", None) or ())
        if not self._model._supports_attention_backend:
            return "its attention cannot be replaced"
        if "position_ids" not in inspect.signature(self.network.forward).parameters:
            return "it takes no position ids"
        if unknown := kinds - {"full_attention", "sliding_attention"}:
            return f"it has {unknown.pop()} layers"
        return "its rotary angles depend on the longest text" if self._depends_on_length else None

    @torch.inference_mode()
    def _probe_packs(self) -> str | None:
        groups = self._probe_groups()
        parts = [group.part([i]) for group in groups for i in range(len(group.completions))]
        # Every other token of each text, so that it shows if one that is not read is missed by another.
        read = [np.arange(part.num_tokens - 1, -1, -2) for part in parts]
        alone = torch.cat([self.states(pad([part]), rows) for part, rows in zip(parts, read)])
        self.why_not_packed = None
        try:
            with _attending_by(self._model, NAME):
                laid = self.lay(groups)
                rows = [laid.reading.token(c, i) for c, positions in enumerate(read) for i in positions]
                states = self.states(laid, np.array(rows))
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 (classes that are not ours, asked for what they were not made for)
            return first_line(error) or type(error).__name__
        drift = (states.float() - alone.float()).abs().max().item()
        if not drift <= self._tolerance(alone):
            return f"packed states differ from plain ones by {drift:.2g}"
        window = getattr(self._model.config.get_text_config(), "sliding_window", None)
        if window and self._windows == {None} and window < self._spec.encoding.scoring.max_length:
            return "its sliding window is hidden in its masks"
        return None

    @torch.inference_mode()
    def _probe_padding(self) -> None:
        """Raises ModelError unless later tokens leave the states of earlier ones alone.

        If a batch does not, where its padding or its longest text leads past a window, sequences go one by one.
        """
        groups, do = [group.part([0]) for group in self._probe_groups()], "give a decoder-only model"
        for group in groups[-1:]:
            if drift := self._drift(pad([group]), pad([group]), group.num_tokens):
                what = f"the model makes other numbers of the same text each time (by {drift:.3g})"
                raise ModelError(what, self._spec.where, "give a model whose forward pass draws nothing at random")
        for group in groups[:1] if self._depends_on_length else groups:
            # As the run has it: by itself, or with other tokens in place of padding, so that both are computed alike.
            multiple = 1 if self._one_by_one else self._multiple
            width = -(-(group.num_tokens + 2) // multiple) * multiple
            more = np.resize(group.completions[0], width - group.num_tokens)
            longer = Group(group.prompt, [np.concatenate([group.completions[0], more])], [0])
            if group.num_tokens > SHORT:
                do = f"set scoring.max_length to {len(group.prompt) - PAST} or less: up to there it is"
            alone = pad([group], 1 if self._one_by_one else width)
            if drift := self._drift(alone, pad([longer], width), group.num_tokens):
                raise ModelError(
                    f"later tokens change what the model makes of earlier ones (by {drift:.3g}): it is not causal",
                    self._spec.where,
                    do,
                )
        longest = max(groups, key=lambda group: group.num_tokens)
        for group in () if self._one_by_one else groups:
            both = pad([group, longest], self._multiple)
            self._one_by_one |= self._drift(pad([group]), both, group.num_tokens) > 0

    def _drift(self, alone: Padded, other: Padded, num_tokens: int) -> float:
        """How far the states of the first tokens are apart; 0 if that is rounding.

        By the worst token, or in half precision by the median, since a few may meet other experts there.
        """
        rows = np.arange(num_tokens)
        expected, found = (self.states(laid, rows).float() for laid in (alone, other))
        drift_L = (expected - found).abs().max(1).values.nan_to_num(torch.inf)
        exact = arithmetic(self._spec.files.dtype, self.device) == "float32"
        drift = (drift_L.max() if exact else drift_L.median()).item()
        return drift if drift > self._tolerance(expected) else 0.0

    def _probe_groups(self) -> list[Group]:
        """Groups of short texts, and one that is longer than every window that a text of the run can leave."""
        longest = self._spec.encoding.scoring.max_length
        past = min(max(_windows_below(self._model.config.get_text_config(), longest), default=0) + PAST, longest - 7)
        ids = iter(np.arange(1, 200 + longest, dtype=np.int64) * 7919 % self.num_embeddings)
        texts = [np.fromiter(ids, np.int32, n) for n in (9, 6, 11, 1, 4, 7, max(past, 1))]
        return [
            Group(texts[0], texts[1:4], [0, 1, 2]),
            Group(texts[4], texts[5:6], [3]),
            Group(texts[0][:0], texts[1:2], [4]),
            *([Group(texts[6], [texts[1], texts[5]], [5, 6])] if past > SHORT else []),
        ]

    def _tolerance(self, states: torch.Tensor) -> float:
        return TOLERANCE[arithmetic(self._spec.files.dtype, self.device)] * max(1.0, states.float().abs().max().item())

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside, the scorer's adapter is active and the model attends as `states` needs it."""
        attention = None if self.why_not_packed else NAME
        with adapter_active(self._model, self._spec.adapter_name), _attending_by(self._model, attention):
            yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, the CPU computes on one thread, as an actor does: several would share out a length that is no multiple of
    their number, and round what is left over in another way.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _attending_by(model: PreTrainedModel, implementation: str | None) -> Iterator[None]:
    """Inside, the model's attention is the named one; None leaves it as it is."""
    before = model.config._attn_implementation
    if implementation is not None:
        model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        if implementation is not None:
            model.set_attn_implementation(before)


def _windows_below(config: PreTrainedConfig, limit: int) -> Iterator[int]:
    """Every number of tokens in the configuration at which a model may begin to do something else."""
    trees = [config.to_dict(), *_rope_settings(config)]
    for name, value in (item for tree in trees for item in tree.items()):
        if WINDOW.search(name):
            numbers = value if isinstance(value, list) else [value]
            inside = (n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and 1 < n < limit)
            # A token in a chunk may see the chunk before it, and that after it.
            yield from (3 * n if "chunk" in name else n for n in inside)


def _rope_settings(config) -> list[dict]:
    """Settings of the rotary embedding; some models have one set per kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    by_kind = [value for value in rope.values() if isinstance(value, dict)]  # None: layers without (Beam)
    return by_kind or [rope]
