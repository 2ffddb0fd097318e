"""`mapjob submit`: the whole job, on a Ray cluster."""

import logging
from typing import Annotated

from typer import Exit, Option

from mapjob.cli.options import (
    ConfigFile,
    Json,
    Limit,
    Name,
    Note,
    Notify,
    Overrides,
    TrustRemoteCode,
    is_verbose,
    with_name,
)
from mapjob.config.load import load_config
from mapjob.escaping import for_terminal, redact

log = logging.getLogger(__name__)


def submit(
    config: ConfigFile,
    address: Annotated[str, Option(metavar="URL", help="The cluster's dashboard, e.g. http://127.0.0.1:8265")],
    overrides: Overrides = None,
    limit: Limit = None,
    name: Name = None,
    note: Note = None,
    notify: Notify = None,
    no_wait: Annotated[bool, Option("--no-wait", help="Do not follow the job.")] = False,
    num_cpus: Annotated[
        float,
        Option(
            "--entrypoint-num-cpus",
            min=0.0,
            metavar="N",
            help="CPUs reserved for the driver, on any node that has them. 0: it runs on the head and reserves none.",
        ),
    ] = 0.0,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Run on a Ray cluster: ship the run file and this package, follow the log, end with the job's exit code.

    Paths are the cluster's: relative ones are made absolute from this folder, as on a disk that all machines share.
    Credentials for S3 and the hub come from the cluster's environment; none of this machine's are shipped.

    The submission is called mapjob-<hash of the run file with its overrides and limit>. While it runs, the same run
    file is refused; after it ended, the next one is called -2, -3, and resumes from what is committed.

    Ctrl-C leaves the job running. `ray job stop`, `ray job logs --follow` and `ray job list` take the same --address,
    and `ray job submit ... -- mapjob run CONFIG` does the same from an image that has mapjob. If the cluster asks for a
    token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    Example: mapjob submit run.yaml --address http://127.0.0.1:8265 --set selection.alpha=2.5
    """
    from mapjob.job import submit  # with ray
    from mapjob.job.notify import read_url

    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)  # Ray's client logs every package and socket
    flags = {"--trust-remote-code": trust_remote_code, "--json": as_json, "--verbose": is_verbose()}
    options = tuple(flag for flag, given in flags.items() if given)
    options += () if note is None else ("--note", note)
    tree, webhook = load_config(config, with_name(overrides, name)), None if notify is None else read_url(notify)
    client = submit.connect(address)
    name = submit.submit(client, tree, limit, options, num_cpus, webhook)
    log.info(f"submitted as {name}")
    if no_wait:
        log.info(f"follow it: {submit.command('logs', client, name)}")
        log.info(f"stop it:   {submit.command('stop', client, name)}")
        return
    try:
        exit_code = submit.follow(client, name, lambda text: print(for_terminal(redact(text)), end="", flush=True))
    except KeyboardInterrupt:
        log.info(f"stopped following the log; the job keeps running. Follow it: {submit.command('logs', client, name)}")
        log.info(f"stop it: {submit.command('stop', client, name)}")
        raise Exit(130)
    raise Exit(exit_code)
