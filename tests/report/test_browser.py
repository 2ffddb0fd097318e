"""A report in a real browser: at desktop and phone width, light and dark, it fits, loads nothing, is at peace, and
hinders nobody. So does a page of `mapjob browse`.
"""

import pytest

from mapjob.job.run import render_report
from mapjob.report.browse import page_html
from mapjob.report.pages import Filter, Pages
from mapjob.store.run_folder import open_run, path_of
from tests.report.browser import AXE, CHROMIUM, Seen, look

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the report is not looked at")


@pytest.fixture(scope="module")
def file(manifest, tmp_path_factory):
    file = tmp_path_factory.mktemp("shown") / "report.html"
    file.write_text(render_report(open_run(path_of(manifest)), num_examples=2))
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_it_fits_loads_nothing_else_and_hinders_nobody(file, width, scheme):
    seen = look(file, width, scheme)
    file.with_name(f"{width}-{scheme}.png").write_bytes(seen.png)
    assert seen.scroll_width <= seen.inner_width
    assert seen.requests == [file.resolve().as_uri()]
    assert seen.messages == []
    red = int(seen.background.removeprefix("rgb(").split(",")[0])
    assert (red > 200) == (scheme == "light")
    assert len(seen.png) > 50_000, "there is something to see"
    hinders_nobody(seen)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_of_browse(manifest, tmp_path, scheme):
    pages = Pages(open_run(path_of(manifest)))
    file = tmp_path / "browse.html"
    file.write_text(page_html(pages, Filter(), 2, pages))
    seen = look(file, 375, scheme)
    assert seen.scroll_width <= seen.inner_width
    hinders_nobody(seen)


def test_the_check_sees_what_hinders(tmp_path):
    file = tmp_path / "bad.html"
    file.write_text("<title>x</title><p style='color: #aaa; background: #fff'>pale</p><img src='x.png'>")
    seen = look(file, 375, "light")
    if seen.violations is not None:
        broken = {violation.partition(":")[0] for violation in seen.violations}
        assert {"html-has-lang", "image-alt", "color-contrast"} <= broken


def hinders_nobody(seen: Seen) -> None:
    if AXE is None:
        pytest.skip("axe-core-python is not installed: accessibility is not checked")
    assert not seen.violations, "\n".join(seen.violations or ())
