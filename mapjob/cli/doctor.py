"""`mapjob doctor`: check that this machine, cluster, storage and models can run a run file."""

import json

from typer import Exit

from mapjob.cli.options import ConfigFile, Json, Overrides, TrustRemoteCode
from mapjob.config.load import load_config
from mapjob.escaping import one_line

UNHEALTHY = 2


def doctor(
    config: ConfigFile, overrides: Overrides = None, trust_remote_code: TrustRemoteCode = False, as_json: Json = False
) -> None:
    """Check that this machine, cluster, storage and models can run a run file. Exit code 2: they cannot.

    Loads every model, and scores eight rows one by one and in a batch.

    Example: mapjob doctor configs/demo.yaml
    """
    from mapjob.job.doctor import examine  # with torch and ray

    findings = []
    for finding in examine(load_config(config, overrides or ()), trust_remote_code):
        findings.append(finding)
        print(f"{'BAD' if finding.error else 'ok '} {finding.subject}: {one_line(finding.says)}", flush=True)
        if finding.error:
            print("\n".join(f"    {line.strip()}" for line in str(finding.error).splitlines()[1:]))
    if as_json:
        found = [{"subject": f.subject, "good": f.error is None, "says": f.says} for f in findings]
        print(json.dumps({"findings": found}))
    if any(finding.error for finding in findings):
        raise Exit(UNHEALTHY)
