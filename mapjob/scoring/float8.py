"""Layers in float8: weights per output row, inputs per token, both scaled to the range of e4m3; sums in float32.

Half the weight memory of bfloat16, and up to twice its speed where the device multiplies float8 (NVIDIA from Ada on).
Every product rounds its inputs to 4 significant bits, so scores drift; `benchmarks/scoring.py` prints by how much.
"""

import torch
from torch import nn

from mapjob.errors import ModelError

LARGEST = 448.0  # of float8 e4m3


class Float8Linear(nn.Module):
    """A linear layer (H -> O) without gradients, its weight in float8."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight_OH, scale_O1 = quantized(linear.weight.detach())
        self.register_buffer("weight", weight_OH, persistent=False)
        self.register_buffer("scale_O1", scale_O1, persistent=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x_TH, scale_T1 = quantized(x.flatten(0, -2))
        scales = {"scale_a": scale_T1, "scale_b": self.scale_O1.t()}
        out_TO = torch._scaled_mm(x_TH, self.weight.t(), **scales, bias=self.bias, out_dtype=x.dtype)
        return out_TO.unflatten(0, x.shape[:-1])


def quantized(rows_RH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(float8 rows, their float32 scales (R, 1)): each row's largest value becomes the largest float8."""
    scale_R1 = (rows_RH.abs().amax(1, keepdim=True).float() / LARGEST).clamp_min(1e-12)
    return (rows_RH.float() / scale_R1).to(torch.float8_e4m3fn), scale_R1


def check_device(device: torch.device, where: str) -> None:
    """Raises ModelError where float8 products would be emulated or refused."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise ModelError(
            f"this {device.type} device does not multiply float8",
            where,
            "set dtype: bfloat16, or run on a GPU of compute capability 8.9 or more (Ada, Hopper, Blackwell)",
        )


def quantize_layers(body: nn.Module) -> None:
    """Put every linear layer of the body into float8 that a kernel can take: sizes in multiples of 16."""
    for module in list(body.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child.in_features % 16 == child.out_features % 16 == 0:
                setattr(module, name, Float8Linear(child))
