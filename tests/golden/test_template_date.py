"""Templates that ask what day it is: scores do not depend on the day on which they were made."""

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
from transformers.utils import chat_template_utils

from mapjob.config.load import parse_config
from mapjob.errors import ConfigError, Reason
from mapjob.job.prepare import describe, prepare
from mapjob.scoring.encode import Encoder
from mapjob.scoring.spec import ScorerSpec, scorer_files, scorer_specs
from mapjob.store.run_folder import path_of
from tests.fakes import CHAT_TEMPLATE, config_tree, make_pairs, make_policy, make_reward, make_tokenizer, write_corpus
from tests.golden.in_process import CORPUS, read
from tests.without_ray import run

# As Llama 3.2's: the caller's date, else the clock.
DATED = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
DATED += "{{ '<|system|>\nToday Date: ' + date_string + '<|end|>\n' }}" + CHAT_TEMPLATE.replace(
    "{% if bos %}", "{% if false %}"
)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A policy whose template asks for the date, and a reward model whose template does not."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = DATED
    return make_policy(tmp_path / "policy", tokenizer=tokenizer), make_reward(tmp_path / "reward")


def specs_on(folders: tuple[Path, Path], day: str | None = None) -> dict[str, ScorerSpec]:
    tree = config_tree(Path("unused"), Path("unused"), *folders)
    tree["input"] |= {"template_date": day} if day else {}
    config = parse_config(tree)
    return {spec.name: spec for spec in scorer_specs(config, CORPUS, scorer_files(config))}


def text_of(spec: ScorerSpec) -> str:
    encoder = Encoder(spec.encoding, CORPUS)
    (encoded,) = encoder.encode(read(make_pairs(1)))
    return encoder.decode(encoded.prompt)


@pytest.fixture(params=["1999-12-31", "2031-01-01"])
def clock(request, monkeypatch) -> str:
    """What transformers takes for now."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromisoformat(request.param)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    return request.param


def test_a_template_sees_the_day_of_the_run_file(folders, clock):
    assert "Today Date: 26 Jul 2024" in text_of(specs_on(folders)["policy"])
    assert "Today Date: 01 Mar 2025" in text_of(specs_on(folders, "2025-03-01")["policy"])


def test_the_clock_is_given_back(folders, clock):
    tokenizer = Encoder(specs_on(folders)["policy"].encoding, CORPUS)._tokenizer
    text_of(specs_on(folders)["policy"])
    shown = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert datetime.date.fromisoformat(clock).strftime("%d %b %Y") in shown


def test_the_day_is_part_of_what_scores_are_kept_under_where_a_template_asks_for_it(folders):
    default, other = specs_on(folders), specs_on(folders, "2025-03-01")
    assert default["policy"].fingerprint != other["policy"].fingerprint
    assert default["policy"].encoding.identity["template_date"] == "2024-07-26"
    assert default["reward"].fingerprint == other["reward"].fingerprint
    assert "template_date" not in default["reward"].encoding.identity


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json", "additional_chat_templates"])
def test_a_template_is_found_wherever_it_is_saved(tmp_path, where):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"default": CHAT_TEMPLATE, "tool_use": DATED} if "additional" in where else DATED
    policy = make_policy(tmp_path / "policy")
    tokenizer.save_pretrained(policy, save_jinja_files="config" not in where)
    if "config" in where:
        (policy / "chat_template.jinja").unlink()
    assert (policy / where).exists()
    assert specs_on((policy, make_reward(tmp_path / "reward")))["policy"].encoding.template_date == "2024-07-26"


def test_no_row_can_set_the_clock(folders):
    records = [replace(record, template={"strftime_now": "x"}) for record in read(make_pairs(1))]
    (error,) = Encoder(specs_on(folders)["policy"].encoding, CORPUS).encode(records)
    assert error.reason == Reason.TEMPLATE_ERROR


def test_a_run_says_the_day_and_keeps_its_scores_under_it(folders, tmp_path):
    tree = config_tree(write_corpus(tmp_path / "in", make_pairs(10)), tmp_path / "out", *folders)
    lines = [line for line in describe(prepare(parse_config(tree))) if "date" in line]
    assert lines == ["policy: its chat template asks for the date, and sees 2024-07-26 (input.template_date)"]
    first, again = (run(parse_config(tree)) for _ in range(2))
    assert first["run_id"] == again["run_id"]
    card = (Path(path_of(first)) / "README.md").read_text()
    assert "saw 2024-07-26" in card
    tree["input"]["template_date"] = "2025-03-01"
    later = run(parse_config(tree))
    assert later["run_id"] != first["run_id"]
    assert later["fingerprints"]["reward"] == first["fingerprints"]["reward"]


def test_what_is_no_date_is_refused_by_its_key(folders):
    with pytest.raises(ConfigError, match=r"input\.template_date"):
        specs_on(folders, "yesterday")
