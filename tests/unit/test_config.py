"""The run file: its defaults, its refusals by key, overrides, and fingerprints."""

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from mapjob.cli.options import with_name
from mapjob.config.input import Reading
from mapjob.config.load import fingerprint, load_config, parse_config
from mapjob.config.run import Config
from mapjob.errors import ConfigError

LEAST = {
    "input": {"path": "corpus"},
    "output": {"path": "out"},
    "models": {"policy": {"path": "p"}, "reward": {"path": "r"}},
}

# As written in the design of the house, paths filled in: these names bind.
DESIGN = """
name: null                            # a name for people; shown by status, report, diff
input:
  path: s3://corpus/pairs/            # folder, glob, list of them, or a dataset id of the hub (hf://org/name)
  split: null                         # null: `train` where file names or the README name splits
  reading: null                       # null: worked out from all head rows and printed as YAML to paste
  columns: {id: null, group: null}    # renames for other column names; group is what quotas go by
  plain_text: auto                    # auto | chat | raw: how string prompts and completions meet the models
  template_date: 2024-07-26           # the day that templates with strftime_now see
output:
  path: s3://curated/nightly/
models:
  policy:    {path: org/model, revision: null, dtype: bfloat16, adapter: null}
  reference: null                     # needed by implicit: dpo
  reward:    {path: org/reward, revision: null, dtype: bfloat16}
scoring:
  max_length: 2048
  overlength: drop                    # drop | keep_start
  control_tokens: error               # error | sanitize | keep: text that holds the template's own markers
selection:
  metric: map                         # any column of metrics, see `mapjob rank --list`
  implicit: simpo                     # simpo | dpo
  scale: zscore                       # zscore | raw | calibrated
  alpha: 1.0
  beta: 1.0                           # scales the implicit margin when scale is raw
  keep: {ratio: 0.4}                  # exactly one of ratio | count | threshold | tokens
  on_disagreement: keep               # keep | relabel | drop
  where: null                         # a condition over corpus and score columns
  exclude: {groups: [], ids: null}    # ids: a file of pair_ids
  verdicts: null                      # a file of answers of people: pair_id, swap | drop | keep
  per_prompt: null                    # at most this many pairs of one prompt
  quotas: null                        # group -> share
  pairing: best_worst                 # candidates only: best_worst | dcrm | map | ranked
output_format: trl                    # trl | openrlhf | llama_factory
checks: {}                            # limits that decide whether the run is promoted
execution:
  address: null                       # null: a local Ray; auto or ray://…: a cluster
  schedule: together                  # together | one_by_one: all models resident at once, or one after the other
  pools: {}                           # scorer -> {num_gpus, min_size, max_size}; empty: worked out from the cluster
max_error_rate: 0.01                  # share of broken rows that ends the run
"""


def with_key(key: str, value: object) -> dict:
    """The least run file with one dotted key set."""
    tree = copy.deepcopy(LEAST)
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = value
    return tree


def refusal(tree: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(tree, "run.yaml")
    assert caught.value.where == "run.yaml"
    assert caught.value.exit_code == 2
    return caught.value.what


@pytest.fixture
def run_file(tmp_path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(LEAST))
    return file


def test_the_run_file_of_the_design_is_accepted_and_holds_the_defaults():
    config = parse_config(yaml.safe_load(DESIGN))
    written = {
        "input": {"path": "s3://corpus/pairs/"},
        "output": {"path": "s3://curated/nightly/"},
        "models": {"policy": {"path": "org/model"}, "reward": {"path": "org/reward"}},
    }
    assert config == parse_config(written)


def test_everything_else_has_a_default():
    config = parse_config(LEAST)
    assert config.input.split is None
    assert config.input.reading == Reading()
    assert config.input.plain_text == "auto"
    assert config.models.reference is None
    assert config.models.policy.dtype == "bfloat16"
    assert (config.scoring.max_length, config.scoring.overlength) == (2048, "drop")
    assert (config.selection.metric, config.selection.alpha, config.selection.keep.ratio) == ("map", 1.0, 0.4)
    assert (config.output_format, config.max_error_rate) == ("trl", 0.01)


@pytest.mark.parametrize(
    "key", ["input", "input.path", "output", "output.path", "models", "models.policy", "models.reward.path"]
)
def test_a_missing_key_is_named(key):
    tree = copy.deepcopy(LEAST)
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        node = node[parent]
    del node[leaf]
    assert f"{key}: Field required" in refusal(tree)


@pytest.mark.parametrize(
    "key",
    [
        *(
            "inputs",
            "input.paths",
            "input.columns.text",
            "models.critic",
            "models.policy.devices",
            "scoring.batch_size",
        ),
        *("selection.ratio", "selection.keep.share", "execution.pools.policy.gpus", "execution.pools.critic", "seed"),
    ],
)
def test_an_unknown_key_is_named(key):
    assert key in refusal(with_key(key, {} if key == "execution.pools.critic" else 1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input.path", 3),
        ("input.path", [1]),
        ("input.split", 3),
        ("input.split", ["train", None]),
        ("input.reading.sides", ["chosen"]),
        ("input.plain_text", "html"),
        ("input.columns", "id"),
        ("models.policy", "org/model"),
        ("models.policy.dtype", "int4"),
        ("scoring.max_length", "long"),
        ("scoring.max_length", 1),
        ("scoring.overlength", "wrap"),
        ("scoring.control_tokens", None),
        ("selection.metric", "best"),
        ("selection.alpha", -0.5),
        ("selection.alpha", float("nan")),
        ("selection.beta", 0),
        ("selection.beta", float("inf")),
        ("selection.keep.ratio", 1.5),
        ("selection.keep.ratio", -0.1),
        ("selection.keep.ratio", float("nan")),
        ("selection.keep.count", -1),
        ("selection.keep.count", 2.5),
        ("selection.keep.tokens", -1),
        ("selection.keep.threshold", "high"),
        ("selection.per_prompt", 0),
        ("selection.quotas", {"a": 0.5}),
        ("selection.quotas", {"a": -0.1}),
        ("selection.votes", "most"),
        ("selection.exclude.groups", "web"),
        ("execution.rows_per_unit", 0),
        ("execution.tokens_per_batch", 0),
        ("execution.pools.policy.min_size", 0),
        ("max_error_rate", 2),
    ],
)
def test_a_wrong_value_is_named_by_its_key(key, value):
    assert key in refusal(with_key(key, value))


def test_votes_are_of_several_models_and_decide_something():
    tree = with_key("selection.votes", "majority")
    assert "on_disagreement drops or relabels, and it keeps all" in refusal(tree)
    tree["selection"]["on_disagreement"] = "drop"
    assert "give models.reward by name" in refusal(tree)
    tree["models"]["reward"] = {"a": {"path": "r"}, "b": {"path": "s"}}
    assert parse_config(tree).selection.votes == "majority"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_threshold_that_is_not_finite_is_refused(value):
    """A run id is a hash of JSON, which has no such numbers."""
    assert "selection.keep.threshold" in refusal(with_key("selection.keep.threshold", value))


def test_a_negative_seed_is_refused():
    """numpy's generators take none."""
    assert "selection.seed" in refusal(with_key("selection.seed", -1))


@pytest.mark.parametrize("keep", [{}, {"ratio": None}, {"ratio": 0.5, "count": 3}, {"threshold": 0.0, "tokens": 1}])
def test_keep_is_exactly_one_of_four(keep):
    what = refusal(with_key("selection.keep", keep))
    assert "selection.keep" in what
    assert "exactly one of ratio, count, threshold, tokens" in what
    assert all(name in what for name, value in keep.items() if value is not None)


@pytest.mark.parametrize(
    "keep", [{"ratio": 0}, {"count": 0}, {"threshold": -1.5}, {"tokens": 0}, {"ratio": None, "count": 3}]
)
def test_each_of_the_four_is_accepted_also_at_zero(keep):
    kept = parse_config(with_key("selection.keep", keep)).selection.keep
    assert kept.model_dump(exclude_none=True) == {name: value for name, value in keep.items() if value is not None}


def test_dpo_asks_for_a_reference():
    tree = with_key("selection.implicit", "dpo")
    assert "models.reference" in refusal(tree)
    tree["models"]["reference"] = {"path": "r"}
    assert parse_config(tree).models.reference.path == "r"


@pytest.mark.parametrize("name", ["", " ", "\t\n"])
def test_a_blank_name_is_refused(run_file, name):
    with pytest.raises(ConfigError, match="name: a name that is blank"):
        load_config(run_file, with_name([], name))


@pytest.mark.parametrize("name", ["🙂 of the night", "007", "null", "a: b", "\x1b[31m", "line\nbreak", "'\""])
def test_a_name_of_the_command_line_is_taken_to_the_letter(run_file, name):
    assert load_config(run_file, with_name(["selection.alpha=2"], name)).name == name


def test_every_fault_is_listed_at_once():
    tree = with_key("selection.metric", "best") | {"outputs": {}, "max_error_rate": "no"}
    what = refusal(tree)
    assert all(
        key in what for key in ("selection.metric", "outputs: unknown key (did you mean output?)", "max_error_rate")
    )


def test_a_config_does_not_change():
    config = parse_config(LEAST)
    with pytest.raises(ValidationError):
        config.selection.alpha = 2.0


def test_round_trip():
    for tree in (LEAST, yaml.safe_load(DESIGN), with_key("execution.pools", {"policy": {"num_gpus": 0.5}})):
        config = parse_config(tree)
        assert parse_config(config.model_dump()) == config
        assert parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
        assert Config.model_validate_json(config.model_dump_json()) == config


# Files and overrides


def test_overrides_are_yaml_values_at_dotted_keys(run_file):
    overrides = [
        "input.path=[a, b*.parquet]",
        "models.reference={path: r, dtype: float32}",
        "selection.keep.count=7",
        "selection.alpha=2.5",
        "input.columns.id=null",
        "output.path=s3://bucket/a=b",
        "execution.pools.policy.num_gpus=0.5",
    ]
    config = load_config(run_file, overrides)
    assert config.input.path == ["a", "b*.parquet"]
    assert (config.models.reference.path, config.models.reference.dtype) == ("r", "float32")
    assert config.selection.keep.count == 7
    assert config.selection.alpha == 2.5
    assert config.output.path == "s3://bucket/a=b"
    assert config.execution.pools["policy"].num_gpus == 0.5
    assert load_config(run_file) == parse_config(LEAST)


def test_a_later_override_wins_over_an_earlier_one_and_over_the_file(run_file):
    assert load_config(run_file, ["output.path=x", "output.path=y"]).output.path == "y"


def test_an_override_goes_below_a_key_that_is_null_in_the_file(run_file):
    run_file.write_text(yaml.safe_dump({**LEAST, "selection": None}))
    assert load_config(run_file, ["selection.alpha=2"]).selection.alpha == 2.0


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("selection.alpha", "not an override"),
        ("=3", "not an override"),
        ("input.path.deeper=3", "'path' holds a value"),
        ("selection.keep=[1", "not valid YAML"),
        ("selection.alfa=1", "selection.alfa: unknown key (did you mean alpha?)"),
        ("input.reading.side=[a, b]", "input.reading.side: unknown key (did you mean sides?)"),
        ("selection.alpha=much", "selection.alpha"),
        ("selection.keep={ratio: 0.1, count: 3}", "exactly one"),
    ],
)
def test_a_faulty_override_is_a_config_error(run_file, override, says):
    with pytest.raises(ConfigError) as caught:
        load_config(run_file, [override])
    assert says in caught.value.what


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a mapping"),
        (b"- a\n- b\n", "not a mapping"),
        (b"just text", "not a mapping"),
        (b"input: [unclosed", "not valid YAML"),
        (b"input: {path: caf\xe9}", "not"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not"),
        (b"1: 2\n", "1"),
    ],
)
def test_a_file_that_is_no_run_file_is_a_config_error_that_names_it(run_file, content, says):
    run_file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(run_file)
    assert says in caught.value.what
    assert caught.value.where == str(run_file)


def test_a_run_file_that_is_not_there_or_a_folder(tmp_path):
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            load_config(path)
        assert caught.value.where == str(path)


# Fingerprints


def test_fingerprint_does_not_see_the_order_of_keys():
    one = {"a": 1, "b": {"c": [1, 2], "d": None}}
    other = {"b": {"d": None, "c": [1, 2]}, "a": 1}
    assert fingerprint(one) == fingerprint(other)
    assert len(fingerprint(one)) == 16
    assert int(fingerprint(one), 16) >= 0


def test_fingerprint_sees_every_value():
    base = {"a": 1, "b": {"c": [1, 2], "d": None}}
    others = [
        {"a": 2, "b": {"c": [1, 2], "d": None}},
        {"a": "1", "b": {"c": [1, 2], "d": None}},
        {"a": 1.5, "b": {"c": [1, 2], "d": None}},
        {"a": 1, "b": {"c": [2, 1], "d": None}},
        {"a": 1, "b": {"c": [1, 2], "d": False}},
        {"a": 1, "b": {"c": [1, 2]}},
        {"a": 1, "b": {"c": [1, 2], "d": None}, "e": None},
        {"a": 1, "B": {"c": [1, 2], "d": None}},
        {},
    ]
    prints = [fingerprint(tree) for tree in [base, *others]]
    assert len(set(prints)) == len(prints)


def test_fingerprint_is_the_same_on_every_machine():
    """Names in score stores depend on it: a change here scores every corpus again."""
    assert fingerprint({"a": [1, 2.5, None, "é"]}) == fingerprint({"a": [1, 2.5, None, "\u00e9"]}) == "2a30e3d7f3e10ee1"


def test_every_key_of_the_selection_changes_its_fingerprint():
    settings = [
        {},
        {"metric": "explicit"},
        {"implicit": "dpo"},
        {"scale": "raw"},
        {"alpha": 2.0},
        {"beta": 2.0},
        {"seed": 1},
        {"keep": {"ratio": 0.5}},
        {"keep": {"count": 3}},
        {"on_disagreement": "drop"},
        {"per_prompt": 1},
    ]
    tree = copy.deepcopy(LEAST)
    tree["models"]["reference"] = {"path": "r"}
    prints = sorted(
        fingerprint(parse_config({**tree, "selection": chosen}).selection.model_dump(mode="json"))
        for chosen in settings
    )
    assert all(one != other for one, other in pairwise(prints))
