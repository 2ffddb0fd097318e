"""`python -m mapjob` is `mapjob`; a Python that lacks what it needs, as that of a cluster may, names it."""

import platform
import sys
from importlib.util import find_spec

OLDEST = (3, 11)
NEEDED = ["accelerate", "filelock", "fsspec", "httpx2", "huggingface_hub", "jinja2", "numpy", "peft", "pyarrow"]
NEEDED += ["pydantic", "rapidfuzz", "ray", "rich", "safetensors", "tokenizers", "torch", "transformers", "typer"]
NEEDED += ["yaml"]


def find_lack() -> str:
    """What this Python lacks, in words; empty if nothing. This file is read by any Python 3."""
    if sys.version_info < OLDEST:
        return f"is version {platform.python_version()}, and mapjob needs 3.11 or later"
    missing = [name for name in NEEDED if find_spec(name) is None]
    return "lacks " + ", ".join(missing) if missing else ""


if __name__ == "__main__":
    lack = find_lack()
    if lack:
        print(
            f"error: this Python {lack}\n"
            f"  where: {sys.executable} on {platform.node()}\n"
            "  to do: use the environment that has mapjob's packages: put its bin folder first on the PATH, on a "
            "cluster before `ray start` on every machine; or install them: python -m pip install 'mapjob[cluster]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from mapjob.cli.app import main

    main()
