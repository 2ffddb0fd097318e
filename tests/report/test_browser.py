"""A report in a real browser: at desktop and phone width, light and dark, it fits, loads nothing, and is at peace."""

import pytest

from mapjob import job
from mapjob.store.run_folder import open_run
from tests.report.browser import CHROMIUM, look

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the report is not looked at")


@pytest.fixture(scope="module")
def file(manifest, tmp_path_factory):
    file = tmp_path_factory.mktemp("shown") / "report.html"
    file.write_text(job.report(open_run(job.path_of(manifest)), num_examples=2))
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_it_fits_and_loads_nothing_else(file, width, scheme):
    seen = look(file, width, scheme)
    file.with_name(f"{width}-{scheme}.png").write_bytes(seen.png)
    assert seen.scroll_width <= seen.inner_width
    assert seen.requests == [file.resolve().as_uri()]
    assert seen.messages == []
    red = int(seen.background.removeprefix("rgb(").split(",")[0])
    assert (red > 200) == (scheme == "light")
    assert len(seen.png) > 50_000, "there is something to see"
