"""The Grafana board asks for metrics that a run has, by their names in Prometheus."""

import json
import re
from pathlib import Path

from mapjob.pipeline import progress

BOARD = json.loads((Path(__file__).resolve().parents[2] / "cluster" / "grafana.json").read_text())
# Counters are exported as ray_<name>_total (ray.util.metrics.Counter, since Ray 2.10).
KNOWN = {f"ray_{name}_total" for name in re.findall(r'Metric\("(\w+)"', Path(progress.__file__).read_text())}


def test_every_counter_has_a_panel_and_every_panel_a_counter():
    asked = {name for panel in BOARD["panels"] for name in re.findall(r"ray_\w+", panel["targets"][0]["expr"])}
    assert asked - {"ray_node_gpus_utilization"} == KNOWN
    assert len(KNOWN) == 5


def test_panels_lie_beside_each_other():
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in BOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(places)
