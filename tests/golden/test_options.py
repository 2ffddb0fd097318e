"""Options that trade exactness for speed: they drift by little, and show in the fingerprint."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mapjob.scoring.models
from mapjob.errors import ModelError
from mapjob.scoring.encode import Encoded
from mapjob.scoring.float8 import Float8Linear
from mapjob.scoring.scorers import Scorer
from mapjob.scoring.spec import ScorerSpec
from tests.fakes import make_policy, make_reward
from tests.golden.in_process import columns, encode, read, specs


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, ScorerSpec]:
    folder = tmp_path_factory.mktemp("options")
    return specs(make_policy(folder / "policy"), make_reward(folder / "reward"), "chat")


def with_option(spec: ScorerSpec, **option) -> ScorerSpec:
    return replace(spec, files=replace(spec.files, **option))


def scores(spec: ScorerSpec, records: list[Encoded]) -> np.ndarray:
    column = columns(Scorer(spec, device=torch.device("cpu")), records)[spec.kind]
    return np.array(column)


@pytest.mark.slow  # compiling takes a minute
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["policy", "reward"])
def test_compiled_body(plain, short_pairs, name):
    spec = with_option(plain[name], compile=True)
    records = encode(spec, read(short_pairs[:12]))
    np.testing.assert_allclose(scores(spec, records), scores(plain[name], records), rtol=1e-5, atol=1e-4)
    assert spec.fingerprint != plain[name].fingerprint


def test_logits_rounded_to_bfloat16(plain, short_pairs, multiplies_bfloat16):
    exact = with_option(plain["policy"], dtype="bfloat16")
    rounded = with_option(exact, head_dtype="bfloat16")
    records = encode(exact, read(short_pairs[:40]))
    drift = np.abs(scores(rounded, records) - scores(exact, records))
    print(f"mean drift of a log-probability sum {drift.mean():.3f}, largest {drift.max():.3f}")
    assert 0 < drift.mean() < 0.5
    assert rounded.fingerprint != exact.fingerprint


def test_float8_layers(plain, short_pairs, monkeypatch):
    """On CPU torch multiplies float8 too, if slowly, so the numbers can be tried without the device."""
    monkeypatch.setattr(mapjob.scoring.models, "check_device", lambda *_: None)
    spec = with_option(plain["policy"], dtype="float8")
    records = encode(spec, read(short_pairs[:40]))
    scorer = Scorer(spec, device=torch.device("cpu"))
    assert sum(isinstance(module, Float8Linear) for module in scorer.body.network.modules()) == 2 * 7
    exact = scores(plain["policy"], records)
    drift = np.abs(np.array(columns(scorer, records)["logps"]) - exact) / np.abs(exact)
    print(f"mean relative drift {drift.mean():.4f}, largest {drift.max():.4f}")
    assert drift.mean() < 0.05


def test_float8_where_the_device_lacks_it(plain):
    with pytest.raises(ModelError, match="does not multiply float8"):
        Scorer(with_option(plain["policy"], dtype="float8"), device=torch.device("cpu"))


def test_float8_linear():
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48).bfloat16()
    x = torch.randn(3, 32, 64).bfloat16()
    ours, exact = Float8Linear(linear)(x), linear(x)
    assert ours.shape == exact.shape
    assert (ours - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_defaults_leave_the_fingerprint_alone(plain):
    assert not {"compile", "head_dtype", "adapter"} & plain["policy"].covers.keys()
    assert Path(plain["policy"].files.path).is_dir()
