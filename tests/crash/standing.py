"""What stands below an output, in a form that is equal for equal results."""

import hashlib
import json
import re

from mapjob.config.run import Config
from mapjob.store.storage import SCRATCH, Storage

COST = re.compile(r'<section id="cost">.*?</section>', re.DOTALL)  # of a report: times


def standing(config: Config) -> dict[str, str]:
    """The MD5 of every file below the output, and what manifest and report say beyond times and place."""
    storage = Storage(config.output.path)
    digests = {}
    for path, info in storage.fs.find(storage.root, detail=True).items():
        name = path.removeprefix(f"{storage.root}/")
        if name.startswith("plans/"):  # what is known of files by their time, and how long rows took
            continue
        if name.endswith(("manifest.json", "report.json")):
            manifest = json.loads(storage.read(name) or b"")
            manifest.pop("finished_at", None)
            del manifest["spent"], manifest["config"]["output"]
            digests[name] = json.dumps(manifest)
        elif name.endswith("report.html"):
            digests[name] = COST.sub("", (storage.read(name) or b"").decode())
        elif not name.startswith(f"{SCRATCH}/"):
            md5 = info.get("ETag") or hashlib.md5(storage.read(name) or b"").hexdigest()
            digests[name] = md5.strip('"')
    return digests
