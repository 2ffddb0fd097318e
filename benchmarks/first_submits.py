"""First submits of fresh packages to a head and one node on one machine, started by two `ray start`.

They share a folder, in which Ray unpacks what a job ships once per node: see `mapjob.job.submit`.

    PYTHONPATH=. python -m benchmarks.first_submits --number 10
"""

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

import mapjob
from tests.cluster.nodes import running_cluster
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10)
    number = parser.parse_args().number
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        corpus = write_corpus(folder / "corpus", make_pairs(20), num_files=1)
        models = make_policy(folder / "policy"), make_reward(folder / "reward")
        num_ended = 0
        with running_cluster(folder / "ray", folder / "home", num_nodes=1, one_folder=True) as cluster:
            for turn in range(number):
                tree = config_tree(corpus, folder / f"out-{turn}", *models, execution={"rows_per_unit": 10})
                (folder / "run.yaml").write_text(yaml.safe_dump(tree))
                package = folder / f"package-{turn}"
                shutil.copytree(Path(mapjob.__file__).parent, package / "mapjob")
                (package / "mapjob" / "salt.py").write_text(f"SALT = {secrets.token_hex()!r}\n")
                start = time.monotonic()
                command = [sys.executable, "-m", "mapjob", "submit", str(folder / "run.yaml")]
                ended = subprocess.run(
                    [*command, "--address", cluster.dashboard],
                    env={**cluster.environment, "PYTHONPATH": str(package)},
                    cwd=folder,
                    capture_output=True,
                    text=True,
                )
                num_ended += ended.returncode == 0
                print(f"submit {turn + 1}: exit code {ended.returncode}, {time.monotonic() - start:.0f} s", flush=True)
                if ended.returncode:
                    print(os.linesep.join((ended.stdout + ended.stderr).splitlines()[-12:]), flush=True)
        print(f"{num_ended} of {number} first submits ran")


if __name__ == "__main__":
    main()
