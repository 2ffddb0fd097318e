"""A run file, or a finished run, with its corpus and its models: what is known before a model is loaded; units that are
new are read for their ids.
"""

import copy
import gc
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mapjob.config.load import apply_overrides, load_config, parse_config
from mapjob.config.run import Config
from mapjob.config.selection import WITH_ALPHA
from mapjob.corpus.listing import url_of
from mapjob.corpus.plan import Plan, describe_plan, make_plan
from mapjob.corpus.reader import RowReader
from mapjob.corpus.records import control_pattern
from mapjob.errors import ConfigError, check_extra
from mapjob.job.unit_size import size_units
from mapjob.pipeline.progress import Events
from mapjob.pipeline.stages import Todo, missing
from mapjob.scoring.reader_families import RECORDS, DerivedColumns, derived_columns, identify, records_columns
from mapjob.scoring.recorded import HAS_TEMPLATE, Record, record, recorded_families, recorded_models
from mapjob.scoring.spec import ScorerSpec, scorer_files, scorer_specs
from mapjob.selection.decisions import Decisions, load_decisions
from mapjob.selection.manifest import run_id
from mapjob.selection.where import check_where
from mapjob.store.run_folder import FinishedRun, Manifest, RunFolder, open_run, path_of
from mapjob.store.score_store import ScoreStore
from mapjob.store.storage import Storage

log = logging.getLogger(__name__)

T = TypeVar("T")
RunFile = Config | dict[str, Any] | str  # its path, its content, or a Config
Source = RunFile  # or the path of an output or run folder

# A graph of its own for each slice of so many units: Ray Data's driver holds memory per unit until its graph ends.
UNITS_PER_PASS = 2_000
KEEP_EVERY_S = 60.0
NEAR_DUPLICATE_ROWS = 5_000_000  # of which the signatures alone have 512 bytes each

SCORED_BY = ("input", "models", "scoring", "execution", "output")  # keys that another ranking of a run leaves alone


@dataclass(frozen=True)
class Job:
    """A run file with its corpus and its models.

    families: name -> fingerprint of every column family, the records first. models: what a manifest keeps of each, by
    scorer. decisions: what people decided, as the selection's files had it when this was prepared. derived, scorers:
    what computes the families; none if only what is scored is ranked.
    """

    config: Config
    plan: Plan
    families: dict[str, str]
    models: dict[str, Record]
    store: ScoreStore
    limit: int | None
    decisions: Decisions
    derived: tuple[DerivedColumns, ...] = ()
    scorers: tuple[ScorerSpec, ...] = ()

    @property
    def run_id(self) -> str:
        assert not self.plan.unnamed, "what a run is depends on what its rows say"
        return run_id(self.config, self.plan, self.families, self.store.forgotten, self.decisions)

    @property
    def run_folder(self) -> RunFolder:
        return RunFolder(self.config.output.path, self.run_id)

    @property
    def control(self) -> re.Pattern[str] | None:
        """What scoring broke up in the texts (control_tokens: sanitize), so that a selection holds what was scored."""
        markers = self.models["policy"]["encoding"]["markers"]
        return control_pattern(markers) if markers else None

    def todo(self) -> list[Todo]:
        """The units that lack a column family in the store now."""
        return missing(self.plan, self.families, self.store)

    def lacking(self) -> dict[str, int]:
        """How many units each column family still lacks."""
        lacking = Counter(name for item in self.todo() for name in item.missing)
        return {name: lacking[name] for name in self.families}


def prepare(config: Config, limit: int | None = None, code_allowed: bool = False) -> Job:
    """Look at models and corpus without loading a model. Raises what is wrong with either.

    Nothing is written but, under the output, files of the corpus that are no Parquet, once, as such, and what is known
    of these.

    code_allowed: the command line lets models run their own code, if the run file does too.
    """
    if code_allowed and not config.models.with_own_code:
        do = "add trust_remote_code: true to the model whose code is to run, or drop the flag"
        raise ConfigError("--trust-remote-code is given, but the run file trusts no model", "models", do)
    decisions = load_decisions(config.selection, None)
    files = scorer_files(config, code_allowed)
    plan = _plan(config, files["policy"].has_chat_template, size_units(config, files.values()), limit)
    scorers = tuple(scorer_specs(config, plan.corpus, files))
    encoding = scorers[0].encoding
    derived = tuple(derived_columns(plan.corpus, config.selection, encoding.identity, encoding))
    families = {spec.name: spec.fingerprint for spec in (*derived, *scorers)}
    check_where(config.selection, plan, families)
    models = {spec.name: record(spec) for spec in scorers if spec.name in files}
    store = ScoreStore(config.output.path)
    plan = _with_records(plan, families, store)
    return Job(config, plan, families, models, store, limit, decisions, derived, scorers)


def _with_records(plan: Plan, families: dict[str, str], store: ScoreStore) -> Plan:
    """The plan, in which only units have an id whose records are stored."""
    if len(plan.unnamed) == len(plan.units):
        return plan
    done = store.done(families[RECORDS])
    return plan.with_ids({index: "" for index, unit in enumerate(plan.units) if unit.id not in done})


def read_config(config: RunFile, overrides: Sequence[str] = ()) -> Config:
    """A run file with `a.b=value` overrides. Raises ConfigError with every fault."""
    if isinstance(config, str):
        return load_config(config, tuple(overrides))
    if isinstance(config, Config) and not overrides:
        return config
    tree = config.model_dump(mode="json") if isinstance(config, Config) else copy.deepcopy(config)
    apply_overrides(tree, overrides)
    return parse_config(tree)


def read_source(source: Source, overrides: Sequence[str] = ()) -> tuple[Config, Manifest | None]:
    """The settings of a run file (and None), or of the finished run in a folder; overrides: `a.b=value`, on top.

    Raises ConfigError with every fault, and for an override of a run that changes what is scored.
    """
    if not (isinstance(source, str) and ("://" in source or Path(source).is_dir())):
        return read_config(source, overrides), None
    manifest = open_run(source).manifest
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] in SCORED_BY:
            raise ConfigError(
                f"a folder is ranked as it was scored, so no key of {', '.join(SCORED_BY)} can be set",
                f"--set {override}",
                "give the run file in place of the folder, with this override",
            )
    log.info(f"with the settings and scores of {path_of(manifest)}")
    tree = copy.deepcopy(manifest["config"]) | {"name": None}  # that is the name of the other run
    apply_overrides(tree, overrides)
    return parse_config(tree, path_of(manifest)), manifest


def prepare_for_ranking(
    config: Config, ran: Manifest | None, limit: int | None = None, code_allowed: bool = False
) -> Job:
    """A job that ranks what is scored; all of its units have ids. ran: of a finished run with the same models, so that
    not even their files are needed; None: as `prepare`. limit: by default that of the run.

    Raises ConfigError if the run folder does not say what of the models decides the scores.
    """
    if ran is None:
        return name_units_here(prepare(config, limit, code_allowed))
    if code_allowed:
        what = "--trust-remote-code is given, but a folder is ranked without any model"
        raise ConfigError(what, path_of(ran), "drop the flag")
    if any(HAS_TEMPLATE not in model for model in ran["models"].values()):
        what = "an older version of mapjob wrote this run, and its manifest does not say enough of the models"
        raise ConfigError(what, path_of(ran), "give the run file; the run that it makes can be ranked without models")
    limit = ran["limit"] if limit is None else limit
    models = recorded_models(config, ran["models"])
    cut: int | Callable[[str, float], int] | str = config.execution.rows_per_unit
    if isinstance(cut, str):
        sizes = ran["corpus"]["rows_per_unit"]
        cut = lambda name, _: sizes.get(name, sizes[""])  # noqa: E731
    plan = _plan(config, models["policy"][HAS_TEMPLATE], cut, limit)
    families = recorded_families(config, plan.corpus, models)
    check_where(config.selection, plan, families)
    store, decisions = ScoreStore(config.output.path), load_decisions(config.selection, FinishedRun.of(ran))
    return name_units_here(Job(config, _with_records(plan, families, store), families, models, store, limit, decisions))


def name_units(job: Job, ids: dict[int, str], cpus: float, gpus: float) -> Job:
    """The job with an id for every unit: workers read those that have none, and put their records.

    ids: by index of the unit, of those that are named by now; grows. What is known is written down at times, and at the
    end. Raises as `graph.identify` does.
    """
    from mapjob.pipeline import graph  # Ray is slow to import
    from mapjob.pipeline.progress import ScoringProgress

    plan, records = job.plan.with_ids(ids), records_columns(job.plan.corpus)
    todo = [Todo(replace(plan.units[index], id=str(index)), (RECORDS,)) for index in plan.unnamed]
    job.store.declare(records.fingerprint, records.identity)
    num_rows, written_at = sum(item.unit.num_rows for item in todo), time.monotonic()
    with ScoringProgress("reading", len(todo), num_rows, Events(), noun="rows") as progress:
        for part in slices(todo):
            for receipt in graph.identify(job.config, plan.corpus, records, part, cpus, gpus):
                ids[int(receipt.unit_id)] = receipt.named
                progress.add(receipt)
            if time.monotonic() - written_at > KEEP_EVERY_S:
                plan.with_ids(ids).keep(job.config.output.path)
                written_at = time.monotonic()
    plan = plan.with_ids(ids)
    plan.keep(job.config.output.path)
    return replace(job, plan=plan)


def slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """So many at a time that a graph of theirs leaves no memory behind."""
    for start in range(0, len(items), UNITS_PER_PASS):
        part = items[start : start + UNITS_PER_PASS]
        yield part
        if len(part) == UNITS_PER_PASS:
            gc.collect()  # a finished graph holds itself in reference cycles


def name_units_here(job: Job) -> Job:
    """The job with an id for every unit: those that have none are read, one after the other, and their records put."""
    if not job.plan.unnamed:
        return job
    records, ids = records_columns(job.plan.corpus), {}
    done = job.store.done(records.fingerprint)
    num_rows = sum(job.plan.units[index].num_rows for index in job.plan.unnamed)
    log.info(f"reading {num_rows:,} rows of files that are new or changed")
    reader = RowReader(job.plan.corpus.own_columns)
    for index in job.plan.unnamed:
        ids[index], table = identify(job.plan.units[index], job.plan.corpus, reader)
        if ids[index] not in done:
            job.store.declare(records.fingerprint, records.identity)
            job.store.commit(records.fingerprint, ids[index], table)
    plan = job.plan.with_ids(ids)
    with suppress(ConfigError):  # whoever may only read the output reads the files again
        plan.keep(job.config.output.path)
    return replace(job, plan=plan)


def _plan(
    config: Config, policy_has_template: bool, rows_per_unit: int | Callable[[str, float], int], limit: int | None
) -> Plan:
    check_output_is_apart(config)
    plan = make_plan(config.input, policy_has_template, rows_per_unit, limit, config.output.path)
    check_selection(config, plan)
    return plan


def check_output_is_apart(config: Config) -> None:
    """Raises ConfigError if the output lies inside an input folder: the next run would read its own results."""
    output = Storage(config.output.path).root
    for path in [config.input.path] if isinstance(config.input.path, str) else config.input.path:
        if f"{output}/".startswith(Storage(url_of(path)).root + "/"):
            what = "the output lies inside the input, so the next run would read it as corpus"
            raise ConfigError(what, f"output.path: {config.output.path}", f"put it outside of {path}")


def check_selection(config: Config, plan: Plan) -> None:
    """Raises ConfigError if the selection asks for what this corpus or this installation cannot give."""
    selection = config.selection
    if selection.near_duplicates is not None:
        check_extra("datasketch", "dedup", "finding near duplicates", "selection.near_duplicates")
        if plan.num_rows > NEAR_DUPLICATE_ROWS:
            raise ConfigError(
                f"near duplicates are found, in one process, among at most {NEAR_DUPLICATE_ROWS:,} rows",
                f"selection.near_duplicates, with {plan.num_rows:,} rows",
                "drop near duplicates before, with a tool for corpora of this size, or remove the key",
            )
    if not plan.corpus.reading.gives_candidates and (
        selection.pairing != "best_worst" or selection.pairs_per_record > 1
    ):
        raise ConfigError(
            f"selection.pairing {selection.pairing} makes pairs of candidates, and this corpus has pairs already",
            f"input.path: {config.input.path}",
            "remove selection.pairing and selection.pairs_per_record, or give a corpus of candidates",
        )


def describe(job: Job) -> Iterator[str]:
    """What was recognised and what is to be done, in a few lines."""
    yield from describe_plan(job.plan)
    if job.config.execution.rows_per_unit == "auto":
        yield f"units of at most {job.plan.largest_unit:,} rows (execution.rows_per_unit: auto)"
    for scorer in job.scorers:
        yield f"{scorer.name}: {scorer.files.path} ({scorer.files.dtype}, {scorer.fingerprint})"
        if day := scorer.encoding.template_date:
            yield f"{scorer.name}: its chat template asks for the date, and sees {day} (input.template_date)"
        if scorer.files.code:
            yield f"{scorer.name}: code that comes with the model runs in the workers ({scorer.files.code[:16]})"


def find_warnings(job: Job) -> Iterator[str]:
    """What may not be meant as the run file has it."""
    config = job.config
    for name in sorted({"margin", "label"} & set(job.plan.schema.names) - set(job.plan.corpus.reading.ignore)):
        yield f"the corpus has a column {name!r}, which trainers may misread; it is published as it is"
    if config.output_format == "columns" and config.scoring.control_tokens == "sanitize":
        yield "output_format columns writes the texts as the corpus has them, not as sanitize had them scored"
    if config.selection.metric not in WITH_ALPHA and config.selection.alpha != 1.0:
        yield f"selection.alpha is ignored by metric: {config.selection.metric}"
