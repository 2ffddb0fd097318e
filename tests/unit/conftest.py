"""Places to store things: a folder of the local disk, and a bucket of an S3 server that runs in this process."""

import pytest


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path) -> str:
    """An empty place to store things: once a folder, once a bucket."""
    return str(tmp_path / "out") if request.param == "local" else request.getfixturevalue("bucket") + "/out"
