"""`mapjob browse` over real HTTP: pages in rank order, filters against the rows themselves, nothing else served."""

import re
import threading
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.cli.browse import server
from mapjob.config.load import parse_config
from mapjob.job.run import rank_job
from mapjob.report.browse import ROWS_PER_PAGE, page_html
from mapjob.report.pages import DISAGREEING, Filter, Pages, contains_text
from mapjob.store import tables
from mapjob.store.run_folder import open_run, path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

MARKUP = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("browsed")
    rows = make_pairs(70)
    rows[11]["prompt"] = f"needle {MARKUP}"
    rows[12]["chosen"] = "Needle in the chosen side"
    rows[13]["source"] = "<b>bold</b>"
    models = make_policy(folder / "policy"), make_reward(folder / "reward")
    tree = config_tree(write_corpus(folder / "in", rows), folder / "out", *models)
    return {**tree, "input": {**tree["input"], "columns": {"group": "source"}}, "selection": {"keep": {"ratio": 1.0}}}


@pytest.fixture(scope="module")
def runs(tree) -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "ROWS_PER_GROUP", 16)  # so that pages lie in several row groups
        first = path_of(run(parse_config(tree)))
        other = {**tree, "selection": {"metric": "explicit", "keep": {"ratio": 0.5}}}
        yield [first, path_of(run(parse_config(other)))]


@pytest.fixture(scope="module")
def rows(runs) -> list[dict[str, Any]]:
    return pq.read_table(f"{runs[0]}/selected").to_pylist()


@pytest.fixture
def get(runs) -> Iterator[Callable[..., str]]:
    """`get(page=2, group=...)` is the page as a browser receives it."""
    with server(Pages(open_run(runs[0])), Pages(open_run(runs[1])), 0) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()

        def get(path: str = "/", host: str | None = None, **query: Any) -> str:
            url = f"http://127.0.0.1:{listening.server_port}{path}?{urlencode(query)}"
            request = Request(url, headers={"Host": host} if host else {})
            with urlopen(request, timeout=20) as answer:
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
                return answer.read().decode()

        yield get
        listening.shutdown()


def ranks_of(html: str) -> list[int]:
    return [int(rank) for rank in re.findall(r"<strong>rank (\d+)</strong>", html)]


def test_pages_in_rank_order(get, rows):
    assert len(rows) == 70
    seen = []
    for page in range(1, 8):
        seen += ranks_of(get(page=page))
    assert seen == list(range(1, 71))
    assert ranks_of(get(page=1000)) == ranks_of(get(page=7))
    assert ranks_of(get(page="x")) == ranks_of(get())


def test_what_is_shown_is_the_row(get, rows):
    html = unescape(get())
    for row in rows[:ROWS_PER_PAGE]:
        for side in ("prompt", "chosen", "rejected"):
            assert row[side][0]["content"] in html
        assert f"map score {row['map_score']:+.3f}" in html


@pytest.mark.parametrize("group", ["group 0", "<b>bold</b>"])
def test_by_group(get, rows, group):
    expected = [row["rank"] for row in rows if row["source"] == group]
    assert ranks_of(get(group=group)) == expected[:ROWS_PER_PAGE]
    assert "<b>bold" not in get()


def test_by_disagreement(get, rows):
    expected = [row["rank"] for row in rows if not row["label_agrees"]]
    assert 10 < len(expected) < 60
    assert ranks_of(get(labels=DISAGREEING, page=2)) == expected[ROWS_PER_PAGE : 2 * ROWS_PER_PAGE]


def needles(rows: list[dict[str, Any]]) -> list[int]:
    texts = [[row[side][0]["content"].lower() for side in ("prompt", "chosen", "rejected")] for row in rows]
    return [row["rank"] for row, own in zip(rows, texts) if any("needle" in text for text in own)]


def test_search_in_texts_and_ids(get, rows):
    assert len(needles(rows)) == 2
    assert ranks_of(get(text="needle")) == needles(rows)
    assert ranks_of(get(text=rows[33]["pair_id"])) == [34]
    assert "No pair passes" in get(text="nowhere in any text")


def test_search_finds_strings_at_any_depth_but_no_roles():
    messages = [
        [{"role": "user", "content": "p", "tool_calls": [{"name": "Needle"}, {"name": None}]}, None],
        None,
        [{"role": "needle", "content": None, "tool_calls": []}],
        [{"role": "user", "content": "p", "tool_calls": None}, {"role": "user", "content": "a needle"}],
    ]
    assert contains_text(pa.array(messages), "needle").tolist() == [True, False, False, True]
    assert contains_text(pa.array(messages)[1:], "needle").tolist() == [False, False, True]
    assert contains_text(pa.array(["needles", None, ""]).dictionary_encode(), "needle").tolist() == [True, False, False]


def test_markup_reaches_the_page_as_text(get):
    html = get(text="needle")
    assert "<script" not in html
    assert MARKUP in unescape(html)
    assert "<img" not in get(text='"><img src=x>')


def test_compared_with_another_run(get, runs, rows):
    there = {row["pair_id"]: row["rank"] for row in pq.read_table(f"{runs[1]}/selected").to_pylist()}
    html = get()
    for row in rows[:ROWS_PER_PAGE]:
        rank = there.get(row["pair_id"])
        elsewhere = f"({rank or 'not selected'} in {open_run(runs[1]).folder.run_id})"
        assert f"<strong>rank {row['rank']}</strong> {elsewhere}" in html


@pytest.mark.parametrize(("path", "host"), [("/", "evil.example"), ("/etc/passwd", None), ("/../", None)])
def test_nothing_else_is_answered(get, path, host):
    with pytest.raises(HTTPError) as caught:
        get(path, host)
    assert caught.value.code == 404


@pytest.mark.parametrize("output_format", ["openrlhf", "llama_factory", "columns"])
def test_every_format_has_pages(tree, output_format, rows):
    manifest = rank_job(parse_config({**tree, "output_format": output_format}))
    pages = Pages(open_run(path_of(manifest)))
    assert [number + 1 for number in pages.matching(Filter(text="needle")).tolist()] == needles(rows)
    html = unescape(page_html(pages, Filter(), 1, None))
    for side in ("prompt", "chosen", "rejected"):
        assert rows[0][side][0]["content"] in html
