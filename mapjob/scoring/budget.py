"""How many tokens one forward pass takes: from a model of its memory, and of what the device has free.

On CPU the best pack is one whose activations stay in the caches; on CUDA the largest that fits or is still of use.
"""

from dataclasses import dataclass
from typing import Any

import torch

from mapjob.scoring.costs import Shape
from mapjob.scoring.vocabulary import ROWS, TILE

CPU_ACTIVATION_BYTES = 8 << 20  # of the widest activation of a pack: more leaves the caches
CPU_RANGE, CUDA_RANGE = (1024, 4096), (2048, 32768)  # past the upper ends nothing was gained
SAFETY = 0.85  # share of the free memory that a pack may be expected to take


@dataclass(frozen=True)
class Budget:
    tokens: int
    reason: str

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens per pack ({self.reason})"


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Activations alive at one time per token of a pack, in the widest part of a layer.

    Residual, normed input and a float32 copy of it; gate, up and their product; query, key, value, and what is gathered
    of the latter two, which prompts shared by many completions repeat.
    """
    shape = Shape.of(config)
    attention = shape.head_dim * (2 * shape.heads + 6 * shape.groups)
    return dtype.itemsize * (2 * shape.hidden + max(3 * shape.inner, attention)) + 4 * shape.hidden


def tokens_that_fit(config: Any, dtype: torch.dtype, device: torch.device, free_bytes: int | None = None) -> Budget:
    """The budget that `tokens_per_batch: auto` stands for. free_bytes: of the device, beside the weights."""
    if device.type == "cpu":
        widest = bytes_per_token(config, dtype) // 4
        tokens = _clamp(CPU_ACTIVATION_BYTES // widest // 256 * 256, CPU_RANGE)
        return Budget(tokens, "fits the CPU cache")
    if free_bytes is None:
        free_bytes = free_memory(device)
    tiles = 2 * 4 * ROWS["cuda"] * TILE["cuda"]
    fit = int(SAFETY * free_bytes - tiles) // bytes_per_token(config, dtype)
    tokens = _clamp(fit // 2 // 128 * 128, CUDA_RANGE)  # a pack of one long group may be twice as long
    return Budget(tokens, f"{free_bytes / 2**30:.1f} GiB are free beside the weights")


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still allocate on a CUDA device: free there, and within its share of it."""
    free, total = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    share = int(total * torch.cuda.get_per_process_memory_fraction(device)) - torch.cuda.memory_allocated(device)
    return max(0, min(free + cached, share))


def _clamp(value: int, limits: tuple[int, int]) -> int:
    return max(limits[0], min(value, limits[1]))
