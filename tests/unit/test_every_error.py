"""Causes that a user can meet and no other test makes: cause -> where the message points, and what it says to do.

The others are in tests/cli/test_errors.py and test_storage_errors.py (as the program prints them), tests/bad_inputs,
tests/security and tests/training.
"""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from botocore.exceptions import ClientError
from transformers import BertConfig, BertForSequenceClassification, BertLMHeadModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.errors import ConfigError, IncompleteError, MapjobError, ModelError
from mapjob.escaping import first_line
from mapjob.job.prepare import prepare
from mapjob.job.rank import find_pair
from mapjob.job.run import load_scores
from mapjob.job.submit import connect, pack
from mapjob.lab.training.train import trainable_files
from mapjob.report.pair import selected_pair
from mapjob.selection.scored import flat
from mapjob.store.output import Output
from mapjob.store.remote import as_mapjob_error
from mapjob.store.run_folder import open_run, path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, make_tokenizer, write_corpus
from tests.without_ray import run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A corpus whose second row repeats the first, two models, and their finished run."""
    folder = tmp_path_factory.mktemp("errors")
    rows = make_pairs(12)
    rows[1] |= {side: rows[0][side] for side in ("prompt", "chosen", "rejected")}
    for number, row in enumerate(rows):
        row["id"] = f"row-{number}"
    corpus = write_corpus(folder / "in", rows, num_files=1)
    tree = config_tree(corpus, folder / "out", make_policy(folder / "policy"), make_reward(folder / "reward"))
    tree["input"]["columns"] = {"id": "id"}
    return SimpleNamespace(folder=folder, tree=tree, manifest=run(parse_config(tree)))


Cause = Callable[[SimpleNamespace, Path], object]


def with_model(role: str, make: Callable[[SimpleNamespace, Path], Path], **sections: dict[str, object]) -> Cause:
    """A run whose model of this role is another one."""

    def cause(made: SimpleNamespace, here: Path) -> None:
        tree = {**made.tree, "output": {"path": str(here / "out")}}
        tree |= {name: {**made.tree.get(name, {}), **section} for name, section in sections.items()}
        tree["models"] = {**tree["models"], role: {"path": str(make(made, here / role)), "dtype": "float32"}}
        run(parse_config(tree))

    return cause


def with_config(**changes: object) -> Callable[[SimpleNamespace, Path], Path]:
    """The policy, its config.json changed."""

    def make(made: SimpleNamespace, folder: Path) -> Path:
        shutil.copytree(made.folder / "policy", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder

    return make


def without_file(name: str) -> Callable[[SimpleNamespace, Path], Path]:
    """The policy, one of its files missing."""
    return lambda made, folder: Path(
        shutil.copytree(made.folder / "policy", folder, ignore=shutil.ignore_patterns(name))
    )


def with_file(name: str, data: bytes) -> Callable[[SimpleNamespace, Path], Path]:
    """The policy, one of its files holding this."""

    def make(made: SimpleNamespace, folder: Path) -> Path:
        shutil.copytree(made.folder / "policy", folder)
        (folder / name).write_bytes(data)
        return folder

    return make


def without_ends(chat: bool) -> Callable[[SimpleNamespace, Path], Path]:
    """A policy whose tokenizer has neither BOS nor EOS."""

    return lambda made, folder: make_policy(folder, tokenizer=tokenizer_without_ends(chat))


def tokenizer_without_ends(chat: bool) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(chat=chat)
    tokenizer.bos_token = tokenizer.eos_token = None
    return tokenizer


def bert(kind: type) -> Callable[[SimpleNamespace, Path], Path]:
    """An encoder, saved as this kind of model."""

    def make(_: SimpleNamespace, folder: Path) -> Path:
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        tokenizer = make_tokenizer()
        ids = {"pad_token_id": tokenizer.pad_token_id, "num_labels": 1, "max_position_embeddings": 1024}
        kind(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **shape, **ids)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def changed_corpus(made: SimpleNamespace, here: Path) -> Path:
    """A copy of the run whose corpus has another row now."""
    tree = {**made.tree, "input": {"path": str(here / "in")}, "output": {"path": str(here / "out")}}
    write_corpus(here / "in", make_pairs(5), num_files=1)
    run(parse_config(tree))
    write_corpus(here / "in", make_pairs(6), num_files=1)
    return here / "out"


def pack_a_secret(made: SimpleNamespace, here: Path) -> None:
    tree = {**made.tree, "input": {"path": "s3://user:hunter2@bucket/in"}}
    pack(parse_config(tree), here)


def output_inside_the_input(made: SimpleNamespace, here: Path) -> None:
    prepare(parse_config({**made.tree, "output": {"path": made.tree["input"]["path"] + "/out"}}))


def damaged_selection(made: SimpleNamespace, here: Path) -> None:
    folder = here / "out" / "runs" / made.manifest["run_id"]
    shutil.copytree(path_of(made.manifest), folder)
    (file,) = folder.glob("selected/*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    selected_pair(open_run(str(folder)), "1")


def rank_out_of_reach(made: SimpleNamespace, here: Path) -> None:
    raise CliRunner().invoke(app, ["show", path_of(made.manifest), "99"]).exception


def refused_pair(made: SimpleNamespace, here: Path) -> None:
    selected_pair(open_run(path_of(made.manifest)), "row-1")


def trained(**changes: object) -> Cause:
    def cause(made: SimpleNamespace, here: Path) -> None:
        options = {"style": "chat", "max_length": 512, "trust": False, "tokenizer": None, **changes}
        path = make_policy(here / "policy", tokenizer=options["tokenizer"])
        trainable_files(
            Model(path=str(path), trust_remote_code=options["trust"]), options["style"], options["max_length"]
        )

    return cause


def two_values_for_three(made: SimpleNamespace, here: Path) -> None:
    flat(pa.table({"logps": pa.array([[1.0, 2.0]])}), "logps", np.array([0, 3]))


IFD = {"selection": {"metric": "ifd_margin"}}
RAW = {"input": {"plain_text": "raw"}}

# cause -> (error, parts of `where`, a part of what to do)
CAUSES: dict[str, tuple[Cause, type[MapjobError], str, str]] = {
    "a reward model as policy": (
        with_model("policy", lambda made, _: made.folder / "reward"),
        ModelError,
        "models.policy.path",
        "causal language model",
    ),
    "a model of another kind": (
        with_model("policy", with_config(model_type="t5")),
        ModelError,
        "models.policy.path",
        "of that kind",
    ),
    "a model that nobody knows": (
        with_model("policy", with_config(model_type="nonsense")),
        ModelError,
        "models.policy.path",
        "check the folder",
    ),
    "weights that are cut off": (
        with_model("policy", with_file("model.safetensors", b"\x80\0\0\0\0\0\0\0{")),
        ModelError,
        "models.policy.path",
        "check the folder",
    ),
    "a tokenizer that is none": (
        with_model("policy", with_file("tokenizer.json", b"{}")),
        ModelError,
        "/policy",
        "save_pretrained",
    ),
    "no config.json": (
        with_model("policy", without_file("config.json")),
        ModelError,
        "models.policy.path",
        "save_pretrained",
    ),
    "no weights": (
        with_model("policy", without_file("*.safetensors")),
        ModelError,
        "models.policy.path",
        "save_pretrained",
    ),
    "a rank that is not there": (rank_out_of_reach, ConfigError, "/out/runs/map-", "ranks go from 1 to 11"),
    "an encoder as policy": (
        with_model("policy", bert(BertLMHeadModel)),
        ModelError,
        "models.policy.path",
        "decoder-only",
    ),
    "an encoder as reward model": (
        with_model("reward", bert(BertForSequenceClassification)),
        ModelError,
        "models.reward.path",
        "decoder-only",
    ),
    "no EOS for plain text": (with_model("policy", without_ends(False), **RAW), ModelError, "/policy", "eos_token"),
    "nothing to begin with": (with_model("policy", without_ends(True), **IFD), ModelError, "/policy", "bos_token"),
    "scores of a changed corpus": (
        lambda made, here: load_scores(str(changed_corpus(made, here))),
        ConfigError,
        "/out",
        "run the run file again",
    ),
    "a pair of a changed corpus": (
        lambda made, here: find_pair(open_run(str(changed_corpus(made, here))).manifest, "1"),
        ConfigError,
        "/out/runs/map-",
        "run the run file again",
    ),
    "a pair that was not ranked": (refused_pair, ConfigError, "part-000.parquet, row 1", "errors/"),
    "a damaged selection": (damaged_selection, MapjobError, "selected/train-00000-of-00001.parquet", "restore it"),
    "an empty output folder": (lambda made, here: Output(str(here)), ConfigError, "/", "output.path"),
    "an output inside the input": (output_inside_the_input, ConfigError, "output.path: ", "outside"),
    "a column of another length": (two_values_for_three, MapjobError, "score store", "score again"),
    "a dashboard's URL with a password": (
        lambda made, here: connect("http://me:hunter2@head:8265"),
        ConfigError,
        "--address http://",
        "token",
    ),
    "not a dashboard": (lambda made, here: connect("ray://head:10001"), ConfigError, "ray://head:10001", "8265"),
    "no dashboard": (lambda made, here: connect("127.0.0.1:1"), ConfigError, "127.0.0.1:1", "port 8265"),
    "a secret on its way to a cluster": (pack_a_secret, ConfigError, "bucket/in", "environment"),
    "training with code of the model": (trained(trust=True), ConfigError, "/policy", "TRL itself"),
    "training on messages without a template": (
        trained(tokenizer=make_tokenizer(chat=False)),
        ModelError,
        "/policy",
        "chat_template",
    ),
    "training on plain text without an end": (
        trained(style="raw", tokenizer=tokenizer_without_ends(chat=False)),
        ModelError,
        "/policy",
        "eos_token",
    ),
    "training longer than the model": (trained(max_length=5_000), ConfigError, "/policy", "--max-length 1024"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_it_says_where_and_what_to_do(made, tmp_path, cause, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # what `connect` puts there is gone afterwards
    make, kind, where, do = CAUSES[cause]
    with pytest.raises(MapjobError) as caught:
        make(made, tmp_path)
    error = caught.value
    assert type(error) is kind
    assert where in error.where, error
    assert do in error.do, error
    assert "hunter2" not in str(error)
    assert len(error.what.splitlines()) == 1


def answered(status: int, code: str) -> ClientError:
    response = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "GetObject")


STORAGE: dict[str, tuple[Exception, type[MapjobError], str]] = {
    "credentials that expired": (answered(400, "ExpiredToken"), IncompleteError, "renew them"),
    "a server that is busy": (answered(503, "SlowDown"), IncompleteError, "when it is well"),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), IncompleteError, "make room"),
    "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), IncompleteError, "make room"),
    "no right": (PermissionError(errno.EACCES, "Permission denied"), ConfigError, "credentials"),
    "no bucket": (FileNotFoundError(errno.ENOENT, "The specified bucket does not exist"), ConfigError, "create it"),
    "a disk to read from": (OSError(errno.EROFS, "Read-only file system"), ConfigError, "written to"),
    "a file for a folder": (NotADirectoryError(errno.ENOTDIR, "Not a directory"), ConfigError, "what is stored there"),
    "a disk that fails": (OSError(errno.EIO, "Input/output error"), IncompleteError, "fix the storage"),
}


@pytest.mark.parametrize("cause", STORAGE)
def test_storage(cause):
    raised, kind, do = STORAGE[cause]
    error = as_mapjob_error(raised, "s3://bucket/scores/unit.parquet", "written")
    assert type(error) is kind
    assert error.where == "s3://bucket/scores/unit.parquet"
    assert do in error.do
    assert "written" in error.what


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (OSError(), "OSError"),
        (ValueError("\n bad value \nand a long story"), "bad value "),
        (OSError("GET https://user:hunter2@hub/a failed"), "GET https://…hub/a failed"),
    ],
)
def test_the_line_of_others_that_is_passed_on(said, line):
    assert first_line(said) == line
