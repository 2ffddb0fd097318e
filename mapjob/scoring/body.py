"""The body of a model under its head: packs in, last hidden states out; length-sorted batches where packs do not work.

Whether a model takes packs is not believed but tried, when it is loaded: a few short texts as one pack and each alone.
"""

import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel

from mapjob.errors import ModelError
from mapjob.scoring.attention import NAME, CannotPack, Segments, attending
from mapjob.scoring.layout import Reading, layout, on_device, padded
from mapjob.scoring.models import body_of, wearing
from mapjob.scoring.packing import Group, Pack, batches, packs
from mapjob.scoring.spec import ScorerSpec

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2, "float8": 2e-1}  # relative to the largest state


class Body:
    """`states` of a pack, inside `at_work`. `why_not_packed` says why the model gets padded batches, or is None."""

    def __init__(self, model: PreTrainedModel, spec: ScorerSpec):
        self.network = body_of(model)
        self.device = model.device
        self._model, self._spec = model, spec
        with wearing(model, spec):
            self.why_not_packed = self._config_forbids_packs() or self._probe_packs()
            if self.why_not_packed:
                self._probe_padding()
        if spec.files.compile:
            self.network = torch.compile(self.network, dynamic=True)

    @property
    def _multiple(self) -> int:
        """Lengths are padded to a multiple of this: on CPU so that each thread's share is whole vectors in any case."""
        return math.lcm(32, torch.get_num_threads()) if self.device.type == "cpu" else 128

    def cut(self, groups: list[Group], tokens_per_batch: int) -> Iterable[Pack]:
        """The groups in the packs, or batches, that `states` takes. On CPU a batch is one sequence: that is fastest."""
        if not self.why_not_packed:
            return packs(groups, tokens_per_batch)
        return batches(groups, 1 if self.device.type == "cpu" or self._depends_on_length else tokens_per_batch)

    def states(self, pack: Pack) -> tuple[torch.Tensor, Reading]:
        """(last hidden states (T, H) of the pack's tokens, where its completions lie among them)."""
        if self.why_not_packed:
            return self._padded_states(pack)
        packed = layout(pack, self._multiple)
        ids_1T, positions_1T = (on_device(a, self.device)[None] for a in (packed.reading.ids_T, packed.positions_T))
        with attending(Segments.of(packed, self.device)) as segments:
            states = self.network(input_ids=ids_1T, position_ids=positions_1T, use_cache=False).last_hidden_state[0]
        self._windows = segments.windows
        return states, packed.reading

    def _padded_states(self, batch: Pack) -> tuple[torch.Tensor, Reading]:
        # No attention mask: a causal model's token never sees the padding behind it, so a mask could only cost time.
        reading, width = padded(batch, self._multiple)
        ids_BL = on_device(reading.ids_T, self.device).view(-1, width)
        return self.network(input_ids=ids_BL, use_cache=False).last_hidden_state.flatten(0, 1), reading

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
        alone = [self._padded_states([group.part([i])]) for group in groups for i in range(len(group.completions))]
        self.why_not_packed = None
        try:
            with _attending_by(self._model, NAME):
                states, reading = self.states(groups)
        except (CannotPack, ValueError, TypeError) as error:
            return str(error).strip().split("\n")[0]
        drift = 0.0
        for c, (own, own_reading) in enumerate(alone):
            rows = [reading.token(c, i) for i in range(len(reading.sequence(c)))]
            drift = max(drift, (states[rows].float() - own[: len(rows)].float()).abs().max().item())
            assert np.array_equal(reading.sequence(c), own_reading.sequence(0))
        if not drift <= self._tolerance(alone[0][0]):
            return f"packed states differ from plain ones by {drift:.2g}"
        window = getattr(self._model.config.get_text_config(), "sliding_window", None)
        if window and self._windows == {None} and window < self._spec.encoding.scoring.max_length:
            return "its sliding window is hidden in its masks"
        return None

    @torch.inference_mode()
    def _probe_padding(self) -> None:
        """Raises ModelError unless tokens behind a text leave its states alone, which right-padding relies on."""
        group = self._probe_groups()[0].part([0])
        longer = Group(group.prompt, [np.concatenate([group.completions[0], group.prompt])], [0])
        (alone, _), (followed, _) = self._padded_states([group]), self._padded_states([longer])
        drift = (alone[: group.num_tokens].float() - followed[: group.num_tokens].float()).abs().max().item()
        if not drift <= self._tolerance(alone):
            raise ModelError(
                f"later tokens change what the model makes of earlier ones (by {drift:.3g}): it is not causal",
                f"models.{self._spec.name}.path: {self._spec.files.path}",
                "give a decoder-only model",
            )

    def _probe_groups(self) -> list[Group]:
        vocabulary = self.network.get_input_embeddings().num_embeddings
        ids = iter(np.arange(1, 200, dtype=np.int32) * 7919 % vocabulary)
        texts = [np.fromiter(ids, np.int32, n) for n in (9, 6, 11, 1, 4, 7)]
        return [
            Group(texts[0], texts[1:4], [0, 1, 2]),
            Group(texts[4], texts[5:], [3]),
            Group(texts[0][:0], texts[1:2], [4]),
        ]

    def _tolerance(self, states: torch.Tensor) -> float:
        return TOLERANCE[self._spec.files.dtype] * max(1.0, states.float().abs().max().item())

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside, the model wears its scorer's adapter and attends as `states` needs it; then it is as it was."""
        with wearing(self._model, self._spec), _attending_by(self._model, None if self.why_not_packed else NAME):
            yield


@contextmanager
def _attending_by(model: PreTrainedModel, implementation: str | None) -> Iterator[None]:
    """Inside, the model's attention is the named one; None leaves it as it is."""
    own = model.config._attn_implementation
    if implementation is not None:
        model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        if implementation is not None:
            model.set_attn_implementation(own)


def _rope_settings(config) -> list[dict]:
    """Settings of the rotary embedding; some models have one set for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [rope] if not any(isinstance(value, dict) for value in rope.values()) else list(rope.values())
