"""The reader's own column families: what needs no model but the corpus, and for edit distances a tokenizer."""

from dataclasses import dataclass
from typing import Any

from mapjob.config import Selection, fingerprint
from mapjob.corpus.plan import Corpus
from mapjob.metrics.columns import DISTANCE
from mapjob.scoring.spec import SCHEMA_VERSION, EncodingSpec, ScorerSpec

RECORDS, EDIT_DISTANCE, NEAR_DUPLICATES = "records", "edit_distance", "near_duplicates"


@dataclass(frozen=True)
class ReaderSpec:
    """One family of the reader. `covers` says what can change a value of it; encoding: whose tokens it is made of."""

    name: str
    covers: dict[str, Any]
    encoding: EncodingSpec | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.covers)


def reader_specs(corpus: Corpus, policy: ScorerSpec, selection: Selection) -> list[ReaderSpec]:
    """The records (ids, content keys and groups, so that ranking never reads text again), and what the selection asks
    for: edit distances in the policy's tokens, and signatures of near duplicates.
    """
    common = {"schema_version": SCHEMA_VERSION, "reading": corpus.reading}
    columns = {"id": corpus.columns.id, "group": corpus.columns.group}
    specs = [ReaderSpec(RECORDS, {**common, "kind": RECORDS, "columns": columns})]
    if DISTANCE in selection.scored_columns:
        covers = {**common, "kind": EDIT_DISTANCE, "encoding": policy.encoding.covers}
        specs.append(ReaderSpec(EDIT_DISTANCE, covers, policy.encoding))
    if selection.near_duplicates is not None:
        from mapjob.metrics.minhash import COVERS  # with datasketch and scipy, which few runs need

        specs.append(ReaderSpec(NEAR_DUPLICATES, {**common, "kind": NEAR_DUPLICATES, "minhash": COVERS}))
    return specs
