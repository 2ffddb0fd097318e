"""What a model is computed in, by its dtype, the device and the processor."""

from pathlib import Path

import pytest
import torch

import mapjob.scoring.models
from mapjob.scoring.models import arithmetic, multiplies_bfloat16

FLAGS = Path("/proc/cpuinfo")


def test_bfloat16_as_the_kernel_lists_the_processor():
    flags = FLAGS.read_text().split() if FLAGS.exists() else []
    if "sse2" not in flags:
        pytest.skip("not Linux on x86: nothing else says what the processor multiplies")
    assert multiplies_bfloat16() == (not {"avx512_bf16", "amx_tile"}.isdisjoint(flags))


@pytest.mark.parametrize("multiplies", [True, False])
def test_only_half_precision_on_a_cpu_is_computed_in_another_dtype(multiplies, monkeypatch):
    monkeypatch.setattr(mapjob.scoring.models, "multiplies_bfloat16", lambda: multiplies)
    names = ["float32", "bfloat16", "float16"]
    assert [arithmetic(name, torch.device("cuda")) for name in names] == names
    on_cpu = [arithmetic(name, torch.device("cpu")) for name in names]
    assert on_cpu == ["float32", "bfloat16" if multiplies else "float32", "float32"]
