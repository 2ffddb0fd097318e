"""What a run shows while it goes on: rates, errors and the time that is left, from receipts and a clock of the test."""

import json
from dataclasses import replace

import pytest

from mapjob.errors import ConfigError
from mapjob.pipeline.progress import Events, ScoringProgress, Tally
from mapjob.pipeline.stages import Cost, Receipt
from mapjob.scoring.costs import peak_flop_per_s

SKIPPED = {"records": {"null_field": 2}, "policy": {"null_field": 2, "overlength": 1}}


def receipt(rows: int = 100, reasons: dict | None = None) -> Receipt:
    costs = {"policy": Cost(5_000, 6.0, 1e14, 0.0, "in words"), "reward": Cost(4_000, 3.0, 1e14, 0.0, "in words")}
    return Receipt("unit", rows, reasons or {"records": {}, "policy": {}}, costs)


def test_rates_and_time_left():
    now = [0.0]
    tally = Tally(4, 400, clock=lambda: now[0])
    assert "loading models" in tally.line()
    assert "loading models" not in Tally(4, 400, noun="rows").line(), "reading loads none"
    now[0] = 60.0
    tally.add(receipt())
    now[0] = 70.0
    tally.add(receipt(reasons=SKIPPED))
    # 200 rows are left, and since the first receipt 100 rows took 10 seconds.
    assert tally.left_s == 20.0
    line = tally.line()
    assert line.startswith("2/4 units, 200/400 pairs, 2.86 pairs/s, 257 tokens/s, 3 rows not scored, 20 s left")
    assert tally.details() == [
        "policy               143 tokens/s    0.17 actors busy",
        "reward               114 tokens/s    0.09 actors busy",
        "errors: null_field 2, overlength 1",
    ]


def test_a_line_of_a_log_fits_into_80_columns(capsys):
    progress = ScoringProgress("policy + reference + reward.helpful", 2_000, 6_000_000, Events(None))
    with progress:
        progress.add(receipt(300_000, SKIPPED))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("policy + reference + reward.helpful: 1/2000 units, 300,000/6,000,000 pairs,")
    assert len(first) <= 80
    assert second.startswith("    ")


def test_utilisation_where_the_peak_is_known():
    """Twice 100 TFLOP in 6 s of a GPU that does 50 TFLOP/s: a third. The other model's GPU is not known."""
    now = [0.0]
    tally = Tally(2, 200, clock=lambda: now[0])
    now[0] = 60.0
    costs = receipt().costs
    costs["policy"] = replace(costs["policy"], peak_flop=6.0 * 5e13)
    for _ in range(2):
        tally.add(replace(receipt(), costs=costs))
    assert tally.details() == [
        "policy               167 tokens/s    0.20 actors busy     33% MFU",
        "reward               133 tokens/s    0.10 actors busy",
    ]


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA H100 80GB HBM3", "float32", 67e12),
        ("NVIDIA A100-SXM4-80GB", "float16", 312e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA B200", "bfloat16", 2250e12),
        ("NVIDIA H100 PCIe", "bfloat16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", None),
        ("NVIDIA L40", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090", "bfloat16", None),
    ],
)
def test_peaks_by_the_names_that_cuda_gives(device, dtype, peak):
    assert peak_flop_per_s(device, dtype) == peak


def test_one_receipt_is_its_own_pace():
    now = [0.0]
    tally = Tally(2, 300, clock=lambda: now[0])
    now[0] = 10.0
    tally.add(receipt())
    assert tally.left_s == 20.0


def test_events_are_one_object_a_line(tmp_path, capsys):
    path = tmp_path / "events.jsonl"
    with ScoringProgress("policy", 1, 100, Events(str(path))) as progress:
        progress.add(receipt(reasons=SKIPPED))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["pass", "unit"]
    assert lines[1]["num_rows"] == 100
    assert lines[1]["reasons"] == SKIPPED
    assert {name: cost["tokens"] for name, cost in lines[1]["costs"].items()} == {"policy": 5_000, "reward": 4_000}
    assert "1/1 units, 100/100 pairs" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match="log of events"):
        Events(str(tmp_path / "missing" / "events.jsonl")).add("start")
