"""What cluster/ holds is what AWS's launcher, KubeRay and Kubernetes take; no key of it can be misspelt unnoticed."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler
import yaml
from jsonschema import Draft202012Validator, ValidationError, validate

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLUSTER = ROOT / "cluster"
SCHEMAS = yaml.safe_load((HERE / "schemas.yaml").read_text())
AWS_SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
DOCUMENTS = [
    pytest.param(document, id=f"{file.name}-{document['kind']}")
    for file in sorted((CLUSTER / "kuberay").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]
# Mappings whose keys are the user's own words, or resources of a machine.
FREE = {"labels", "matchLabels", "nodeSelector", "requests", "limits", "rayStartParams"}


def kuberay(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "kuberay" / name).read_text())


def check(document: dict[str, Any]) -> None:
    """Raises ValidationError or KeyError for what its kind does not take."""
    kind = SCHEMAS["kinds"][document["kind"]]
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["metadata", *kind.get("required", ())],
        "properties": {
            "apiVersion": {"const": kind["apiVersion"]},
            "kind": {"type": "string"},
            "metadata": {"$ref": "#/$defs/metadata"},
            **kind["properties"],
        },
        "$defs": SCHEMAS["$defs"],
    }
    Draft202012Validator(schema).validate(document)


def mappings(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every mapping whose keys are Kubernetes' own."""
    if isinstance(node, list):
        for number, part in enumerate(node):
            yield from mappings(part, (*path, number))
    elif isinstance(node, dict):
        yield path
        for key, part in node.items():
            if key not in FREE:
                yield from mappings(part, (*path, key))


def misspelt(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The document once for each of its keys, with that key misspelt."""
    for path in mappings(document):
        for key in _at(document, path):
            wrong = copy.deepcopy(document)
            mapping = _at(wrong, path)
            mapping[f"{key}x"] = mapping.pop(key)
            yield "/".join(map(str, (*path, key))), wrong


def _at(node: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        node = node[step]
    return node


@pytest.mark.parametrize("document", DOCUMENTS)
def test_kubernetes_takes_it_and_catches_every_misspelt_key(document: dict[str, Any]) -> None:
    check(document)
    unnoticed = []
    for name, wrong in misspelt(document):
        try:
            check(wrong)
            unnoticed.append(name)
        except (ValidationError, KeyError):
            pass
    assert unnoticed == []


def test_both_nightly_forms_make_the_same_job() -> None:
    job, *_ = yaml.safe_load_all((CLUSTER / "kuberay" / "job.yaml").read_text())
    assert kuberay("raycronjob.yaml")["spec"]["jobTemplate"] == job["spec"]


def test_what_the_job_promises() -> None:
    """GPUs from none, a head without work, a token, retries, an end, no secret in it; the policy knows its pods."""
    spec = kuberay("job.yaml")["spec"]
    cluster = spec["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (workers["minReplicas"], workers["replicas"]) == (0, 0)
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] < 24 * 3600
    assert spec["shutdownAfterJobFinishes"]
    assert spec["rayClusterSpec"]["rayVersion"] == _pins(ROOT / "constraints.txt")["ray"]
    policy = next(d.values[0] for d in DOCUMENTS if d.values[0]["kind"] == "NetworkPolicy")
    for template in (spec["submitterPodTemplate"], head["template"], workers["template"]):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        for container in template["spec"]["containers"]:
            assert all(variable["name"] == "HF_HOME" for variable in container.get("env", ()))


@pytest.mark.parametrize("file", sorted(CLUSTER.rglob("*.yaml")), ids=lambda file: file.name)
def test_every_place_to_edit_is_marked(file: Path) -> None:
    for line in file.read_text().splitlines():
        if re.search(r"example\.com|ami-0000|spot: |region:|maxReplicas|max_workers|InstanceType: g|schedule:", line):
            assert "EDIT" in line, line


def test_the_launcher_takes_the_aws_file_and_catches_misspelt_keys() -> None:
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    validate(config, AWS_SCHEMA)
    own = [()] + [(name,) for name in ("auth", "docker")] + [("available_node_types", kind) for kind in ("head", "gpu")]
    for path in own:
        for key in _at(config, path):
            wrong = copy.deepcopy(config)
            mapping = _at(wrong, path)
            mapping[f"{key}x"] = mapping.pop(key)
            with pytest.raises(ValidationError):
                validate(wrong, AWS_SCHEMA)


def test_what_the_aws_file_promises() -> None:
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    head, gpu = (config["available_node_types"][kind] for kind in (config["head_node_type"], "gpu"))
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["min_workers"] == 0
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])
    assert config["idle_timeout_minutes"] > 0


def test_the_image_holds_what_was_tested() -> None:
    """Every requirement has a version and hashes; versions are those of constraints.txt where it names them."""
    text = (CLUSTER / "requirements.txt").read_text()
    for block in re.split(r"\n(?=\S)", text.strip()):
        if not block.startswith("#"):
            assert "--hash=sha256:" in block, block
    wanted, tested = _pins(CLUSTER / "requirements.txt"), _pins(ROOT / "constraints.txt")
    assert {name: version for name, version in wanted.items() if tested.get(name, version) != version} == {}
    assert {"ray", "torch", "transformers", "boto3", "grpcio", "setuptools"} <= wanted.keys()
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    assert "--require-hashes" in dockerfile
    assert re.findall(r"^USER (\w+)$", dockerfile, re.MULTILINE)[-1] == "ray"


def _pins(file: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", file.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}
