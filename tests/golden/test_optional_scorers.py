"""Scorers that only some methods ask for, against plain transformers in float64: no prompt, and sums of squares."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mapjob.config.input import Columns
from mapjob.config.load import parse_config
from mapjob.corpus.plan import Corpus
from mapjob.scoring.encode import Encoder
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import ScorerSpec, scorer_files, scorer_specs
from tests.fakes import config_tree, make_policy, make_reward, make_tokenizer
from tests.golden.in_process import columns, encode, read
from tests.golden.reference import assert_logps_close, flat, in_float64, summed_logps
from tests.readings import READINGS

ALL = {"metrics": ["ifd_margin"], "signals": {"wpo_weight": {}}}
CORPUS = Corpus(READINGS["trl"], Columns(), "chat")
EMPTY_PROMPT = {"prompt": "", "chosen": "def add(a, b):", "rejected": "\nnaive"}


@pytest.fixture(scope="module", params=["chat", "raw"])
def specs(request, tmp_path_factory) -> dict[str, ScorerSpec]:
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer(chat=request.param == "chat", bos=True)
    policy = make_policy(folder / "policy", "gemma2", tokenizer)  # with a soft cap on its logits
    tree = config_tree(folder, folder / "out", policy, make_reward(folder / "reward", "llama", tokenizer))
    config = parse_config({**tree, "selection": ALL})
    made = scorer_specs(config, Corpus(READINGS["trl"], Columns(), request.param), scorer_files(config))
    return {spec.name: spec for spec in made}


@pytest.fixture
def rows(specs, short_pairs) -> list[dict[str, str]]:
    return [*short_pairs[:40], *([EMPTY_PROMPT] if specs["policy"].encoding.style == "raw" else [])]


def scored(spec: ScorerSpec, rows: list[dict[str, str]]) -> dict[str, list]:
    return columns(make_scorer(spec), encode(spec, read(rows)))


def test_they_are_there_where_they_are_asked_for(specs):
    assert list(specs) == ["policy", "collision", "unconditional", "reward"]
    assert len({spec.fingerprint for spec in specs.values()}) == 4
    assert specs["policy"].base == specs["collision"].base == specs["unconditional"].base, "one set of weights"


def test_completions_without_their_prompt(specs, rows):
    spec = specs["unconditional"]
    model = in_float64(AutoModelForCausalLM, spec.files.folder())
    tokenizer = AutoTokenizer.from_pretrained(spec.files.folder())
    with_prompt = encode(specs["policy"], read(rows))
    theirs = []
    for record in with_prompt:
        begin = [tokenizer.bos_token_id] if len(record.prompt) else []
        for completion in record.completions:
            theirs.append(summed_logps(model, [*begin, *completion.tolist()], 1))
    ours = scored(spec, rows)
    assert_logps_close(flat(ours["logps"]), theirs)
    assert ours["num_tokens"] == scored(specs["policy"], rows)["num_tokens"], "the same tokens are counted"


def test_without_a_bos_a_text_begins_with_eos(specs, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.bos_token = None
    policy = make_policy(tmp_path / "policy", "llama", tokenizer)
    tree = config_tree(tmp_path, tmp_path / "out", policy, make_reward(tmp_path / "reward", "llama", make_tokenizer()))
    config = parse_config({**tree, "selection": ALL})
    made = scorer_specs(config, CORPUS, scorer_files(config))
    (spec,) = [spec for spec in made if spec.name == "unconditional"]
    (encoded,) = Encoder(spec.encoding, CORPUS).encode(read([{"prompt": "p", "chosen": "c", "rejected": "r"}]))
    assert encoded.prompt.tolist() == [tokenizer.eos_token_id]


@torch.no_grad()
def test_sums_of_squared_probabilities(specs, rows):
    spec = specs["collision"]
    model = in_float64(AutoModelForCausalLM, spec.files.folder())
    theirs = []
    for record in encode(spec, read(rows)):
        for completion in record.completions:
            ids = [*record.prompt.tolist(), *completion.tolist()]
            first = max(1, len(record.prompt))
            p_LV = model(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
            squares_L = (p_LV * p_LV).sum(-1).log()
            theirs.append(sum(squares_L[position - 1].item() for position in range(first, len(ids))))
    assert_logps_close(flat(scored(spec, rows)["collision_logps"]), theirs)


def test_budgets_and_order_do_not_matter(specs, rows):
    for name, column in (("unconditional", "logps"), ("collision", "collision_logps")):
        encoded = encode(specs[name], read(rows))
        expected = columns(make_scorer(specs[name]), encoded)[column]
        order = np.random.default_rng(0).permutation(len(encoded))
        again = columns(make_scorer(specs[name], tokens_per_batch=200), [encoded[i] for i in order])[column]
        assert again == [expected[i] for i in order]
