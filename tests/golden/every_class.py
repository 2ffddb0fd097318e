"""What mapjob makes of every class that transformers' auto mappings build, beside plain transformers.

`python -m tests.golden.every_class` prints it as a table. Classes are tried in a process of their own, with a limit on
memory and on time, so that none of them takes another one down.
"""

import json
import math
import os
import re
import resource
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path

ROLES = ("policy", "reward")
MEMORY, SECONDS = 8 << 30, 90  # bytes of a process, and how long it may take for one class
RESULTS = ("packs", "one by one", "refused", "not built", "wrong", "crash")
BAR = 1e-4, 1e-5  # nats, or rewards: absolute, and of the largest


@dataclass(frozen=True)
class Outcome:
    """Of one model type in one role. result: one of RESULTS. drift: from plain transformers."""

    role: str
    model_type: str
    architecture: str
    result: str
    why: str = ""
    drift: float | None = None


def try_class(role: str, model_type: str) -> Outcome:
    """In this process: build the class, score with it as an actor does, compare."""
    from tests.golden.tiny_classes import MAPPINGS, NotBuilt, make_tiny, short

    architecture = MAPPINGS[role][model_type]
    with tempfile.TemporaryDirectory() as folder:
        try:
            make_tiny(Path(folder), role, model_type)
            theirs = plain_scores(role, Path(folder), make_records())
        except NotBuilt as error:
            return Outcome(role, model_type, architecture, "not built", str(error))
        except Exception as error:  # noqa: BLE001 (whatever a class raises)
            return Outcome(role, model_type, architecture, "not built", f"plain transformers fails: {short(error)}")
        if not all(map(math.isfinite, theirs)):
            return Outcome(role, model_type, architecture, "not built", "plain transformers makes no numbers")
        return Outcome(role, model_type, architecture, *compare(role, Path(folder), theirs))


def compare(role: str, folder: Path, theirs: list[float]) -> tuple[str, str, float | None]:
    """(result, why, drift) of a model in a folder, beside the scores that plain transformers gives."""
    import torch

    from mapjob.errors import ModelError
    from mapjob.scoring.models import load_model
    from mapjob.scoring.scorers import make_scorer
    from tests.golden.in_process import columns
    from tests.golden.tiny_classes import short

    cpu, records = torch.device("cpu"), make_records()
    try:
        spec = spec_of(role, folder)
        scorer = make_scorer(spec, device=cpu, model=load_model(spec.files, spec.kind, spec.name, cpu))
        ours = [value for row in columns(scorer, records)[spec.kind] for value in row]
    except ModelError as error:
        return "refused", error.what, None
    except Exception as error:  # noqa: BLE001 (no error but a ModelError is for users)
        return "crash", short(error), None
    why = scorer.backbone.why_not_packed
    drift = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    if drift > BAR[0] + BAR[1] * max(map(abs, theirs)):
        return "wrong", f"differs by {drift:.3g}", drift
    return "one by one" if why else "packs", why or "", drift


def spec_of(role: str, folder: Path):
    from tests.golden.in_process import specs

    other = Path(other_models().name)
    folders = {"policy": other / "policy", "reward": other / "reward", role: folder}
    return specs(folders["policy"], folders["reward"], "chat", max_length=MAX_LENGTH)[role]


@lru_cache(maxsize=1)
def other_models() -> tempfile.TemporaryDirectory:
    """A folder with a policy and a reward model beside which one is tried."""
    from tests.fakes import make_policy, make_reward

    folder = tempfile.TemporaryDirectory()
    make_policy(Path(folder.name) / "policy")
    make_reward(Path(folder.name) / "reward")
    return folder


MAX_LENGTH = 160


def make_records() -> list:
    """Records of 1, 2 and 5 completions, with and without a prompt, of 2 to 150 tokens: longer than every window."""
    import numpy as np

    from mapjob.scoring.encode import Encoded

    ids = iter(np.random.default_rng(0).integers(6, 250, 5_000))
    lengths = [(9, (4,)), (30, (12, 41)), (0, (7, 2)), (100, (50, 21)), (5, (3, 1, 17, 40, 66)), (64, (40, 80))]

    def take(n: int, *ends: int) -> np.ndarray:
        return np.array([*islice(ids, n), *ends], np.int32)

    return [Encoded(take(prompt), [take(n, 2) for n in completions]) for prompt, completions in lengths]


def plain_scores(role: str, folder: Path, records: Sequence) -> list[float]:
    """By transformers alone, one sequence at a time."""
    import torch

    from tests.golden.tiny_classes import AUTO_CLASSES

    model, scores = AUTO_CLASSES[role].from_pretrained(folder).eval(), []
    with torch.no_grad():
        for record in records:
            for completion in record.completions:
                ids_1L = torch.tensor([[*record.prompt, *completion]]).long()
                logits = model(input_ids=ids_1L).logits
                if role == "reward":
                    scores.append(logits.item())
                    continue
                logps = logits[0, :-1].double().log_softmax(-1).gather(1, ids_1L[0, 1:, None])
                scores.append(logps[max(len(record.prompt) - 1, 0) :].sum().item())
    return scores


# The processes


def work() -> None:
    """Classes from standard input, a line each; outcomes to standard output."""
    import torch
    from transformers.utils import logging

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what classes print is no answer
    for line in sys.stdin:
        print(json.dumps(asdict(try_class(*line.split()))), file=answers, flush=True)


class Worker:
    """A process that tries one class after another."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._folder = tempfile.TemporaryDirectory()  # for all that it writes, however it ends

    def ask(self, role: str, model_type: str, architecture: str) -> Outcome:
        """An outcome in any case: a process that ends, or takes too long, is one too."""
        if self._process is None:
            command = [sys.executable, "-m", "tests.golden.every_class", "work"]
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "TMPDIR": self._folder.name,
            }
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                text=True,
            )
        self._process.stdin.write(f"{role} {model_type}\n")
        self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(SECONDS) else None
        if line:
            return Outcome(**json.loads(line))
        ended = self._process.poll() is not None or line == ""
        self.close()
        why = "the process ended" if ended else f"no answer in {SECONDS} seconds"
        return Outcome(role, model_type, architecture, "crash", why)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


def try_all(classes: Iterable[tuple[str, str, str]]) -> Iterator[Outcome]:
    worker = Worker()
    try:
        for role, model_type, architecture in classes:
            yield worker.ask(role, model_type, architecture)
    finally:
        worker.close()


def all_classes() -> list[tuple[str, str, str]]:
    """(role, model type, class) of both auto mappings."""
    from tests.golden.tiny_classes import MAPPINGS

    return [(role, *entry) for role, mapping in MAPPINGS.items() for entry in sorted(mapping.items())]


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: how many of each role came to which result, and which, by result and reason."""
    versions = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in ("transformers", "torch"))
    lines = [f"{versions}:", "", f"| | tried | {' | '.join(RESULTS)} | largest difference |"]
    lines.append("| --- |" + " ---: |" * (len(RESULTS) + 2))
    for role in ROLES:
        of_role = [outcome for outcome in outcomes if outcome.role == role]
        counts = Counter(outcome.result for outcome in of_role)
        numbers = [len(of_role) - counts["not built"], *(counts[result] for result in RESULTS)]
        largest = max((outcome.drift for outcome in of_role if outcome.drift is not None), default=0.0)
        lines.append(f"| {role} | {' | '.join(map(str, numbers))} | {largest:.0e} |")
    for role in ROLES:
        lines += ["", f"| {role} | why | model types |", "| --- | --- | --- |"]
        groups: dict[tuple[str, str], list[str]] = {}
        for outcome in outcomes:
            if outcome.role == role:
                groups.setdefault((outcome.result, without_numbers(outcome.why)), []).append(outcome.model_type)
        for result, why in sorted(groups, key=lambda group: (RESULTS.index(group[0]), -len(groups[group]), group[1])):
            lines.append(f"| {result} | {why} | {', '.join(groups[result, why])} |")
    return "\n".join(lines)


def without_numbers(why: str) -> str:
    """A reason as it is the same for several classes: no names of theirs, no differences."""
    return re.sub(r" \([^()]*\)| by [\d.e-]+", "", why).replace("|", "/")


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
    else:
        start = time.monotonic()
        print(table([*try_all(entry for entry in all_classes() if not sys.argv[1:] or entry[1] in sys.argv[1:])]))
        print(f"{time.monotonic() - start:.0f} seconds", file=sys.stderr)
