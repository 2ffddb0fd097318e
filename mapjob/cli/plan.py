"""`mapjob plan`: what a run would do, drop, need and cost."""

from typing import Annotated

from typer import Option

from mapjob.cli.options import ConfigFile, Limit, Overrides, Result, TrustRemoteCode
from mapjob.config.load import load_config
from mapjob.errors import ConfigError
from mapjob.escaping import one_line, wrap
from mapjob.job.prepare import describe, find_warnings, prepare
from mapjob.job.rank import ROWS_IN_ONE_PROCESS, ROWS_PER_PIECE, count_pieces

SMALL = 500e6  # parameters of a model that loads in seconds
MEASURE_S = 2.0


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    limit: Limit = None,
    sample_s: Annotated[float, Option(min=0, help="Seconds for reading and encoding a sample; 0: no sample.")] = 12.0,
    measure: Annotated[
        bool | None,
        Option(
            help="Load the models and time them for a few seconds. "
            "Default: only if they are small and the run is local."
        ),
    ] = None,
    gpu: Annotated[str, Option(help="The GPU to count hours of: l4, a10g, l40s, a100, h100, h200 or b200.")] = "h100",
    price: Annotated[float, Option(min=0, help="Price of one GPU hour.")] = 0.0,
    trust_remote_code: TrustRemoteCode = False,
) -> Result:
    """Dry run on a sample: expected drops, tokens, memory, GPU hours, cost.

    Writes only what a run would write first: files that are no Parquet as Parquet, and in plans/ what is known of them;
    for execution.rows_per_unit: auto also the models' pace, if it measured that.

    Example: mapjob plan configs/single_gpu.yaml --gpu h100 --price 2.5
    """
    prepared = prepare(load_config(config, overrides or ()), limit, trust_remote_code)
    for line in [*describe(prepared), *(f"warning: {text}" for text in find_warnings(prepared))]:
        print(wrap(one_line(line)))
    lacking = prepared.lacking()
    units = len(prepared.plan.units)
    for name, missing in lacking.items():
        print(f"{name:<10} {units - missing:>6} of {units} units in the store, {missing} to do")
    if new := len(prepared.plan.unnamed):
        print(wrap(f"{new} of them are of new or changed files: a run reads these, and scores only rows that are new"))
    run_id = None if prepared.plan.unnamed else prepared.run_id  # it depends on what the new rows say
    finished = run_id is not None and prepared.run_folder.read_manifest() is not None
    state = "finished" if finished else "not written yet"
    where = one_line(prepared.run_folder.url) if run_id else "its name comes with the first reading of the new files"
    print(wrap(f"run folder: {where} ({state})"))
    num_pieces = count_pieces(prepared)
    where = f"in {num_pieces} pieces by Ray tasks" if num_pieces > 1 else "in the driver's process"
    by_ray = f"by Ray beyond {ROWS_IN_ONE_PROCESS:,} rows, on a cluster beyond {ROWS_PER_PIECE:,}"
    print(wrap(f"ranked: {where} ({by_ray})"))
    result = {
        "run_id": run_id,
        "run_path": prepared.run_folder.url if run_id else None,
        "finished": finished,
        "reading": prepared.plan.corpus.reading.identity,
        "style": prepared.plan.corpus.style,
        "rows": prepared.plan.num_rows,
        "units": units,
        "units_to_do": lacking,
        "ranked_in_pieces": num_pieces,
    }
    if sample_s:
        # Slow to import, with torch and transformers.
        from mapjob.job.forecast import forecast
        from mapjob.job.unit_size import keep_pace
        from mapjob.scoring.costs import GPUS

        if gpu not in GPUS:
            raise ConfigError(f"no GPU is called {gpu!r} here", "--gpu", f"one of {', '.join(GPUS)}")
        sample = forecast(prepared, sample_s)
        sample.check_broken(prepared.config.max_error_rate)
        local = prepared.config.execution.address is None
        small = all(load.cost.parameters < SMALL for load in sample.loads.values())
        if measure or (measure is None and local and small):
            for load in sample.loads.values():
                load.measure(prepared.config.execution.tokens_per_batch, MEASURE_S)
            if prepared.config.execution.rows_per_unit == "auto":
                loads = sample.loads.values()
                measured = {load.spec.files: load.seconds_per_row for load in loads if load.seconds_per_row}
                keep_pace(prepared.config.output.path, measured)
        for line in sample.lines(gpu, price):
            print(wrap(line))
        result["forecast"] = sample.as_json(gpu)
    return result
