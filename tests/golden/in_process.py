"""mapjob's own side of the golden tests: its encoders and scorers as plain objects."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mapjob.config.input import Columns
from mapjob.config.load import parse_config
from mapjob.corpus.plan import Corpus, Style
from mapjob.corpus.reading import read_record
from mapjob.corpus.records import Record, check_record
from mapjob.errors import RowError
from mapjob.scoring.encode import Encoded, Encoder
from mapjob.scoring.scorers import Scorer
from mapjob.scoring.spec import ScorerSpec, scorer_files, scorer_specs
from tests.fakes import config_tree
from tests.readings import READINGS

CORPUS = Corpus(READINGS["trl"], Columns(), "chat")


def specs(
    policy: Path, reward: Path, style: Style, reward_token: int | None = None, **scoring: Any
) -> dict[str, ScorerSpec]:
    """The scorers, by name, that a run file with these float32 models has."""
    tree = config_tree(Path("unused"), Path("unused"), policy, reward, scoring={"max_length": 1024, **scoring})
    tree["models"]["reward"]["reward_token"] = reward_token
    config = parse_config(tree)
    corpus = Corpus(READINGS["trl"], Columns(), style)
    return {spec.name: spec for spec in scorer_specs(config, corpus, scorer_files(config))}


def read(rows: Iterable[dict[str, Any]], layout: str = "trl") -> list[Record]:
    return [check_record(read_record(row, READINGS[layout])) for row in rows]


def encode(spec: ScorerSpec, records: Sequence[Record]) -> list[Encoded]:
    """Encoded records; a record that cannot be encoded fails the test."""
    encoded = Encoder(spec.encoding, Corpus(READINGS["trl"], Columns(), spec.encoding.style)).encode(records)
    assert not [item for item in encoded if isinstance(item, RowError)]
    return encoded


def columns(scorer: Scorer, encoded: Sequence[Encoded]) -> dict[str, list[Any]]:
    """The scorer's columns as plain lists, one value or list for each record; a refused record fails the test."""
    scored = scorer.score(encoded).table.to_pydict()
    assert not any(scored["reason"])
    return scored
