"""`mapjob generate`: candidates that `mapjob run` reads, the same whatever befell it, and every row counted."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.load import parse_config
from mapjob.errors import ConfigError, InputError, ModelError
from mapjob.lab.selfplay.config import GenerateConfig
from mapjob.lab.selfplay.folder import GeneratedFolder
from tests.fakes import config_tree, make_pairs, make_policy, make_tokenizer, write_corpus
from tests.selfplay.conftest import Generate
from tests.without_ray import run


def rows(manifest: dict) -> list[dict]:
    return [row for file in sorted(Path(manifest["path"]).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below, but for what generation.json says of time."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for name in [name for name in found if name.endswith("generation.json")]:
        manifest = json.loads(found[name])
        del manifest["spent"], manifest["finished_at"], manifest["path"], manifest["config"]["output"]
        found[name] = json.dumps(manifest).encode()
    return {name: data for name, data in found.items() if not name.startswith(".writing")}


def test_candidates_are_what_run_reads(generated: Generate, models, tmp_path):
    manifest = generated()
    assert manifest["prompts"] == {"rows": 15, "prompts": 12, "left_out": {"repeated": 3}}
    made = rows(manifest)
    assert manifest["counts"]["rows"] + sum(manifest["counts"]["left_out"].values()) == 12
    assert len(made) == manifest["counts"]["rows"]
    assert all(len(row["responses"]) == 3 and row["group"].startswith("group") for row in made)
    tree = config_tree(Path(manifest["path"]), tmp_path / "scored", models["policy"], models["reward"])
    tree["input"]["columns"] = {"group": "group"}
    ran = run(parse_config(tree))
    assert ran["corpus"]["reading"]["responses"] == "responses"
    assert ran["counts"]["rows"] == len(made)
    assert ran["counts"]["broken"] == 0
    selected = pq.read_table(next((tmp_path / "scored").glob("runs/*/selected/*.parquet")))
    assert {"prompt_id", "source_id", "rewrite", "generation"} <= set(selected.column_names)


def test_it_goes_on_where_it_ended(generated: Generate, tmp_path, monkeypatch):
    whole = generated(output={"path": str(tmp_path / "whole")})
    commit, left = GeneratedFolder.commit, [2]

    def killed(self, *arguments) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        commit(self, *arguments)

    monkeypatch.setattr(GeneratedFolder, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        generated()
    monkeypatch.undo()
    again = generated()
    assert again["spent"]["units"] == 1
    assert again["units"] == 3
    assert files(Path(again["path"])) == files(Path(whole["path"]))
    assert generated() == again


def test_nothing_that_differs_meets_in_one_folder(generated: Generate, models, prompts, tmp_path):
    """Prompts, model, sampling, size of units; what changes no text changes no name."""
    first = generated()
    other = make_policy(tmp_path / "other", seed=5)
    changed = [
        generated(generation={"seed": 1}),
        generated(generation={"temperature": 0.9}),
        generated(generation={"num_responses": 2}),
        generated(generation={"prompts_per_unit": 6}),
        generated(policy={"path": str(other)}),
        generated(limit=7),
        generated(prompts={"plain_text": "raw"}),
    ]
    assert len({manifest["name"] for manifest in [first, *changed]}) == 8
    assert generated(generation={"rows_per_batch": 7})["name"] == first["name"]
    assert len(list((tmp_path / "out" / "candidates").iterdir())) == 8
    assert len(rows(changed[5])) <= 7


def test_rows_without_a_prompt_are_counted(generated: Generate, tmp_path):
    good = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    column = [
        good,
        None,
        [],
        [{"role": "user", "content": "Hi <|end|>"}],
        [*good, {"role": "assistant", "content": "x"}],
    ]
    (tmp_path / "messages").mkdir()
    pq.write_table(pa.table({"question": column}), tmp_path / "messages" / "part.parquet")
    source = {"path": str(tmp_path / "messages"), "column": "question", "group": None}
    manifest = generated(prompts=source)
    assert manifest["prompts"] == {"rows": 5, "prompts": 2, "left_out": {"null_field": 1, "bad_messages": 2}}
    assert manifest["counts"]["left_out"]["control_tokens"] == 1
    left_out = pq.read_table(next(Path(manifest["path"]).glob("_left_out/*.parquet"))).to_pylist()
    assert "control_tokens" in [row["reason"] for row in left_out]


def test_a_prompt_with_an_empty_response_is_left_out(generated: Generate, tmp_path):
    """A space is a text without a letter; at a temperature this high a response of one token is often such."""
    many = write_corpus(tmp_path / "many", make_pairs(30))
    manifest = generated(
        prompts={"path": str(many)}, generation={"max_new_tokens": 1, "temperature": 5.0, "top_p": 1.0}
    )
    counts = manifest["counts"]
    assert counts["left_out"]["empty_completion"] > 0
    assert counts["empty_responses"] >= counts["left_out"]["empty_completion"]
    assert counts["rows"] + counts["left_out"]["empty_completion"] == 30
    assert counts["responses"] == 90
    assert all(response["text"].strip() for row in rows(manifest) for response in row["responses"])


def test_plain_text_is_continued_where_the_model_has_no_template(generated: Generate, tmp_path):
    plain = make_policy(tmp_path / "plain", tokenizer=make_tokenizer(chat=False))
    made = rows(generated(policy={"path": str(plain)}))
    assert isinstance(made[0]["prompt"], str)
    with pytest.raises(ModelError, match="no chat template"):
        generated(policy={"path": str(plain)}, prompts={"plain_text": "chat"})


def test_refusals(generated: Generate, tree, tmp_path):
    with pytest.raises(ConfigError, match="no column 'question'"):
        generated(prompts={"column": "question"})
    with pytest.raises(ConfigError, match="1024 positions"):
        generated(generation={"max_new_tokens": 1024})
    with pytest.raises(ConfigError, match="code of its own"):
        generated(policy={"trust_remote_code": True})
    pq.write_table(pa.table({"prompt": ["", None]}), tmp_path / "empty.parquet")
    with pytest.raises(InputError, match=r"no row holds a prompt \(2 null_field\)"):
        generated(prompts={"path": str(tmp_path / "empty.parquet"), "group": None})
    for wrong, what in [
        ({"generation": {"engine": "openai"}}, "needs a server"),
        ({"policy": None}, "needs a policy"),
        ({"sampling": {}}, "unknown key"),
    ]:
        with pytest.raises(ConfigError, match=what):
            parse_config({**tree, **wrong}, "test", GenerateConfig)
