"""Code that comes with a model runs when the run file and the command line both allow it, and then in the workers."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.errors import IncompleteError, ModelError
from mapjob.job.prepare import prepare
from mapjob.job.run import rank_job
from mapjob.scoring.model_files import model_files
from mapjob.scoring.spec import scorer_files
from mapjob.scoring.tokenizers import load_tokenizer
from mapjob.store.run_folder import open_run, path_of
from tests.cli.conftest import Mapjob
from tests.cli.test_commands import last_json
from tests.fakes import config_tree, make_pairs, write_corpus
from tests.security.own_code import change, with_own_code
from tests.without_ray import score_all

pytestmark = pytest.mark.usefixtures("modules_cache")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SANITIZE = {"max_length": 512, "control_tokens": "sanitize"}  # a plan reads the tokenizers then


@pytest.fixture(autouse=True)
def note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTED_IN", str(tmp_path / "noted"))


@pytest.fixture
def tree(models: dict[str, Path], tmp_path: Path) -> dict:
    """A run file whose policy has code of its own, and may run it as far as the run file goes."""
    corpus = write_corpus(tmp_path / "corpus", make_pairs(12))
    policy = with_own_code(models["policy"], tmp_path / "own")
    tree = config_tree(corpus, tmp_path / "out", policy, models["reward"])
    tree["models"]["policy"]["trust_remote_code"] = True
    return tree


@pytest.fixture
def run_file(tree: dict, tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def selected(manifest: dict) -> pa.Table:
    run = open_run(path_of(manifest))
    return pa.concat_tables([run.folder.read_table(name) for name in run.folder.tables("selected")]).sort_by("pair_id")


def noted(tmp_path: Path) -> dict[str, set[str]]:
    """Module -> the programs of the processes that imported it."""
    lines = (tmp_path / "noted").read_text().splitlines() if (tmp_path / "noted").exists() else []
    found: dict[str, set[str]] = {}
    for module, program in (line.split() for line in lines):
        found.setdefault(module, set()).add(Path(program).name)
    return found


def test_with_both_permissions_it_runs_in_the_workers(
    mapjob: Mapjob, run_file: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    ran = mapjob("run", run_file, "--trust-remote-code", "--json")
    assert last_json(ran)["counts"]["ranked"] == 12
    assert "policy: code that comes with the model runs in the workers" in ran.stderr
    assert noted(tmp_path) == {"modeling_own": {"default_worker.py"}, "tokens_own": {"default_worker.py"}}
    # The code only wraps a Llama, so the numbers are those of the plain model.
    plain = config_tree(tmp_path / "corpus", tmp_path / "plain", models["policy"], models["reward"])
    config = parse_config(plain)
    score_all(config)
    columns = ["pair_id", "chosen_logps", "rejected_logps"]
    found = pa.concat_tables([t.select(columns) for t in [selected(open_run(str(tmp_path / "out")).manifest)]])
    assert found.equals(selected(rank_job(config)).select(columns))


def test_either_permission_alone_is_refused_and_names_the_other(program: Callable, run_file: Path, tree: dict) -> None:
    code, _, stderr = program("run", run_file)
    assert code == 2
    assert "--trust-remote-code" in stderr
    assert "models.policy.trust_remote_code" in stderr
    del tree["models"]["policy"]["trust_remote_code"]
    run_file.write_text(yaml.safe_dump(tree))
    for command in ("run", "plan", "rank"):
        code, _, stderr = program(command, run_file, "--trust-remote-code")
        assert code == 2
        assert "trust_remote_code: true" in stderr


@pytest.mark.parametrize("sections", [{}, {"scoring": SANITIZE}])
def test_without_any_permission_nothing_of_it_runs(program: Callable, tree: dict, tmp_path: Path, sections) -> None:
    """Nor with the permission of the run file alone."""
    path = tmp_path / "run.yaml"
    for trusted in (False, True):
        tree["models"]["policy"]["trust_remote_code"] = trusted
        path.write_text(yaml.safe_dump(tree | sections))
        for command in ("plan", "run", "rank"):
            code, _, stderr = program(command, path)
            assert "Traceback" not in stderr
            if sections or command == "run":
                assert code == 2
                assert "trust_remote_code" in stderr
    assert noted(tmp_path) == {}


def test_a_plan_that_reads_the_tokenizers_takes_the_flag(program: Callable, tree: dict, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree | {"scoring": SANITIZE}))
    code, stdout, stderr = program("plan", path, "--trust-remote-code")
    assert code == 0, stderr
    assert "code that comes with the model" in stdout


def test_changed_code_scores_again(tree: dict, tmp_path: Path) -> None:
    config = parse_config(tree)
    score_all(config, code_allowed=True)
    first = rank_job(config)
    (tmp_path / "own" / "parts.py").write_text("SCALE = 0.5\n")
    lacking = prepare(config).lacking()
    assert lacking == {"records": 0, "policy": 2, "reward": 0}
    score_all(config, code_allowed=True)
    second = rank_job(config)
    assert first["fingerprints"]["policy"] != second["fingerprints"]["policy"]
    columns = [selected(manifest)["chosen_logps"].to_pylist() for manifest in (first, second)]
    assert columns[0] != columns[1]


def test_the_workers_refuse_a_tokenizer_that_is_too_large(tree: dict, tmp_path: Path) -> None:
    change(tmp_path / "own" / "config.json", vocab_size=100)
    with pytest.raises(ModelError, match="larger than the model's embedding"):
        score_all(parse_config(tree), code_allowed=True)


def test_code_that_changes_after_the_plan_is_not_run(tree: dict, tmp_path: Path) -> None:
    files = scorer_files(parse_config(tree), code_allowed=True)["policy"]
    (tmp_path / "own" / "parts.py").write_text("SCALE = 2.0\n")
    with pytest.raises(IncompleteError, match="changed after the run had planned it"):
        load_tokenizer(files)
    assert noted(tmp_path) == {}


@pytest.mark.parametrize(
    "reference", ["org/other--modeling_own.OwnModel", "/tmp/elsewhere.OwnModel", "../elsewhere.OwnModel", "a.b.C"]
)
def test_code_outside_of_the_folder_is_refused(tree: dict, tmp_path: Path, reference: str) -> None:
    change(tmp_path / "own" / "config.json", auto_map={"AutoModelForCausalLM": reference})
    with pytest.raises(ModelError, match="outside of the model's own folder"):
        scorer_files(parse_config(tree))
    change(tmp_path / "own" / "config.json", auto_map={})
    change(tmp_path / "own" / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, reference]})
    with pytest.raises(ModelError, match="outside of the model's own folder"):
        scorer_files(parse_config(tree))


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12]])
def test_a_model_of_the_hub_needs_a_whole_commit(revision: str | None) -> None:
    model = Model(path="org/policy", revision=revision, trust_remote_code=True)
    with pytest.raises(ModelError, match="without a commit") as caught:
        model_files(model, "policy", code_allowed=True)
    assert "models.policy.revision" in caught.value.where


def test_code_of_a_commit_of_the_hub(tree: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the machine's cache, where its client keeps what it has fetched."""
    snapshot = tmp_path / "hub" / "models--org--policy" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    (tmp_path / "own").rename(snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = Model(path="org/policy", revision=COMMIT, trust_remote_code=True)
    files = model_files(model, "policy", code_allowed=True)
    assert files.code == COMMIT
    assert type(load_tokenizer(files)).__name__ == "OwnTokenizer"
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_tokenizer(dataclasses.replace(files, code_allowed=False))


def test_a_run_file_makes_no_python_objects(program: Callable, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"input: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    value = f"input.path=!!python/object/apply:os.mkdir ['{tmp_path}/made']"
    for arguments in ([path], [path, "--set", value]):
        code, _, stderr = program("plan", *arguments)
        assert code == 2
        assert "Traceback" not in stderr
    path.write_text("{}")
    assert program("plan", path, "--set", value)[0] == 2
    assert not (tmp_path / "made").exists()


def test_it_is_in_no_default() -> None:
    assert Model(path="any").trust_remote_code is False
    for file in Path(__file__).parents[2].joinpath("configs").glob("*.yaml"):
        assert "trust_remote_code" not in file.read_text()
