"""Generation in this process: every unit through the worker itself, one after the other, no Ray."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pytest

from mapjob.corpus.units import Unit
from mapjob.lab.selfplay import graph as selfplay_graph
from mapjob.lab.selfplay.folder import GeneratedFolder
from mapjob.lab.selfplay.graph import Worker
from mapjob.lab.selfplay.prompts import Prompt, prompt_table
from mapjob.lab.selfplay.tasks import TaskSpec
from mapjob.pipeline import cluster
from mapjob.pipeline.stages import Receipt, Todo
from mapjob.store.tables import to_ipc


@contextmanager
def without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "connect", lambda address: (1.0, 0.0))
        patch.setattr(selfplay_graph, "work_through", work_through)
        yield


def work_through(
    spec: TaskSpec, folder: GeneratedFolder, todo: Sequence[tuple[Unit, Sequence[Prompt]]], *_: object
) -> Iterator[Receipt]:
    worker = Worker(spec, folder, 0)
    for unit, prompts in todo:
        row = {**Todo(unit, ("policy",)).row, "prompts": to_ipc(prompt_table(prompts, spec.style))}
        yield Receipt.of(worker(pa.Table.from_pylist([row])).to_pylist()[0])
