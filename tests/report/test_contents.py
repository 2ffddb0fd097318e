"""A report says what the manifest says, and holds nothing that loads, runs or quotes the corpus."""

from pathlib import Path

import html5lib
import pytest

from mapjob.config.load import parse_config
from mapjob.errors import Reason
from mapjob.job.run import rank_job, render_report
from mapjob.report.page import refused, warnings
from mapjob.report.pair import examples
from mapjob.store.run_folder import FinishedRun, open_run, path_of
from tests.report.conftest import EVIL, PLANTED
from tests.report.parsed import Parsed, loaded
from tests.without_ray import run


def test_it_is_well_formed_html(page):
    html5lib.HTMLParser(strict=True).parse(page)
    parsed = Parsed(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert parsed.names.count("svg") == 7
    assert parsed.names.count("h1") == 1


def test_nothing_is_loaded_and_nothing_runs(page):
    assert loaded(page) == []
    assert "default-src 'none'" in page


EVIL_PAGES = [
    '<a href="http://x.y">x</a>',
    '<p onclick="f()">x</p>',
    "<style>@import 'x'</style>",
    '<svg><image href="x.png"></image></svg>',
    "<script>f()</script>",
    '<p style="background: url(x.png)">x</p>',
]


@pytest.mark.parametrize("evil", EVIL_PAGES)
def test_the_check_sees_what_would_load(evil):
    assert loaded(evil)


def test_values_of_the_data_are_text(page):
    parsed = Parsed(page)
    shown = EVIL.replace("\x1b", "\\x1b")
    assert "script" not in parsed.names
    assert parsed.names.count("b") == 1, "one of ours, none of the folder's name"
    assert parsed.row("effects", "<script>")[0] == shown
    assert "/<b>corpus" in parsed.words["run"]
    assert "\x1b" not in page


def test_it_holds_no_text_of_the_corpus(page):
    assert PLANTED not in page


def test_numbers_are_those_of_the_manifest(page, manifest):
    parsed, counts = Parsed(page), manifest["counts"]
    head = parsed.words["head"]
    for name in ("rows", "ranked", "selected", "dropped", "broken"):
        assert f"{counts[name]:,}" in head
    assert f"{counts['selected']:,} pairs of {counts['rows']:,} rows, ranked by map" in head
    assert f"the last kept pair scores {manifest['statistics']['cut_off']:.6g}" in parsed.words["run"]
    assert f"S_r = {manifest['statistics']['scale']['reward']:.6g}" in parsed.words["run"]
    assert counts["by_reason"] == {"duplicate": 1, "identical_completions": 1, "null_field": 1}
    for reason, number in counts["by_reason"].items():
        assert parsed.row("refused", reason)[1:] == [f"{number}", f"{number / counts['rows']:.2%}"]
    assert parsed.row("effects", "pairs")[1:] == [f"{counts['ranked']}", f"{counts['selected']}"]
    disagree = counts["label_disagreements"] / counts["ranked"]
    assert parsed.row("effects", "reward model disagrees")[1] == f"{disagree:.1%}"
    groups = [parsed.row("effects", name)[1:] for name in ("<script>", "plain", "without a group")]
    assert sum(int(ranked) for ranked, _, _ in groups) == counts["ranked"]
    assert sum(int(selected) for _, selected, _ in groups) == counts["selected"]
    for name, weights in manifest["models"].items():
        assert weights["weights"][:12] in parsed.words["run"], name


def test_what_it_took(tree, tmp_path):
    """Of the call that scored: tokens by model. The run of the fixture only ranked."""
    manifest = run(parse_config({**tree, "output": {"path": str(tmp_path)}}))
    parsed = Parsed((Path(path_of(manifest)) / "report.html").read_text())
    assert manifest["spent"]["scored_rows"] == 118, "two rows are broken"
    for name, tokens in manifest["spent"]["tokens"].items():
        assert parsed.row("cost", name)[1] == f"{tokens:,}"
    assert parsed.row("cost", "scoring")[1] == f"{manifest['spent']['seconds']['score']:,.1f}"


def test_written_again_it_is_the_same(manifest, page):
    assert render_report(FinishedRun.of(manifest)) == page


def test_what_it_is_drawn_from_is_small_and_holds_no_text(manifest):
    kept = open_run(path_of(manifest)).folder.read("report.json")
    assert len(kept) < 150_000
    assert PLANTED.encode() not in kept


def test_every_reason_is_explained():
    by_reason = {reason.value: 1 for reason in Reason}
    words = Parsed(refused({"by_reason": by_reason, "rows": 100})).words["refused"]
    for reason in Reason:
        assert f"{reason}{'dropped' if reason.is_dropped else 'broken'}: {reason.explanation}" in words


def test_many_warnings_are_counted():
    told = {"warnings": [f"<i>{number}" for number in range(30)], "flags": {"policy.truncated": 2, "other": 0}}
    words = Parsed(warnings(told)).words["warnings"]
    assert "<i>0" in words
    assert "and 11 more" in words


def test_examples_are_there_when_asked_for(manifest):
    parsed = Parsed(render_report(FinishedRun.of(manifest), num_examples=2))
    words = parsed.words["examples"]
    assert parsed.names.count("article") == 6
    assert words.count("rejected") >= 6
    assert PLANTED in words
    assert "rank 1" in words
    assert f"rank {manifest['counts']['selected']}" in words
    assert f"{EVIL} ".replace("\x1b", "\\x1b") in words
    assert "script" not in parsed.names


@pytest.mark.parametrize("output_format", ["openrlhf", "llama_factory", "columns"])
def test_examples_of_every_format(tree, output_format):
    other = rank_job(parse_config({**tree, "output_format": output_format}))
    words = Parsed(render_report(FinishedRun.of(other), num_examples=1)).words["examples"]
    assert words.count(PLANTED) >= 3 * 3, "prompt, chosen and rejected of three pairs"


def test_an_empty_selection_has_no_examples(tree):
    none = rank_job(parse_config({**tree, "selection": {"keep": {"count": 0}}}))
    assert "examples" not in Parsed(render_report(FinishedRun.of(none), num_examples=2)).words


def test_long_texts_are_cut_and_counted():
    row = {"rank": 1, "pair_id": "a", "map_score": 0.0, "reward_margin": 1.0, "label_agrees": True}
    row |= {"chosen_reward": 1.0, "rejected_reward": 0.0}
    row |= {"prompt": "<" * 301, "chosen": [{"role": "assistant", "content": "x" * 300}], "rejected": "y" * 300}
    words = Parsed(examples({"Best": [row]})).words["examples"]
    assert f"{'<' * 300}… (301 characters)" in words
    assert f"[assistant] {'x' * 288}… (312 characters)" in words
    assert f"{'y' * 300}\n" in words
