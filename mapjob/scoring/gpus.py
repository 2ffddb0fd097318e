"""GPUs by name: memory, and how fast they multiply at most; for forecasts, and for the share of it that is used."""

from typing import NamedTuple


class Gpu(NamedTuple):
    """Memory in GiB; dense TFLOP/s of one GPU, without sparsity: bfloat16 on tensor cores, float32 off them."""

    gib: int
    bfloat16: float
    float32: float


# NVIDIA's data sheets of each (SXM versions of A100, H100 and H200, B200 of an HGX board).
GPUS = {
    "l4": Gpu(24, 121, 30.3),
    "a10g": Gpu(24, 70, 35),
    "l40s": Gpu(48, 362, 91.6),
    "a100": Gpu(80, 312, 19.5),
    "h100": Gpu(80, 989, 67),
    "h200": Gpu(141, 989, 67),
    "b200": Gpu(180, 2250, 80),
}


def peak_flop_per_s(device_name: str, dtype: str) -> float | None:
    """The most floating-point operations a second of a device as CUDA names it; None where that is not known here.

    float16 is as fast as bfloat16; float8 is not in the table.
    """
    words = device_name.lower().replace("-", " ").split()
    gpu = next((gpu for name, gpu in GPUS.items() if name in words), None)
    if gpu is None or dtype == "float8" or "pcie" in words or "mig" in words:  # slower versions, and parts of one
        return None
    return 1e12 * (gpu.float32 if dtype == "float32" else gpu.bfloat16)
