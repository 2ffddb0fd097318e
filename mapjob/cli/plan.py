"""`mapjob plan`: what a run would do. Nothing is written and no model is loaded."""

import json as json_module

from mapjob.cli.options import ConfigFile, Json, Limit, Overrides, TrustRemoteCode, Verbose
from mapjob.config import load_config
from mapjob.inert import in_line
from mapjob.prepare import describe, prepare


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    limit: Limit = None,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what `mapjob run` would do: layout, units, rows, what is scored already. Touches nothing.

    Example: mapjob plan configs/demo.yaml
    """
    prepared = prepare(load_config(config, overrides or ()), limit, trust_remote_code)
    for line in describe(prepared):
        print(in_line(line))
    lacking = prepared.lacking()
    units = len(prepared.plan.units)
    for name, missing in lacking.items():
        print(f"{name:<10} {units - missing:>6} of {units} units in the store, {missing} to do")
    finished = prepared.run_folder.manifest is not None
    print(f"run folder: {in_line(prepared.run_folder.url)} ({'finished' if finished else 'not there yet'})")
    if json:
        result = {
            "run_id": prepared.run_folder.run_id,
            "run_path": prepared.run_folder.url,
            "finished": finished,
            "layout": prepared.plan.corpus.layout,
            "style": prepared.plan.corpus.style,
            "rows": prepared.plan.num_rows,
            "units": units,
            "units_to_do": lacking,
        }
        print(json_module.dumps(result))
