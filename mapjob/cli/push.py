"""`mapjob push`: a finished run as a dataset on the hub."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mapjob.cli.options import Run
from mapjob.errors import ConfigError
from mapjob.escaping import first_line, one_line
from mapjob.store.run_folder import open_run
from mapjob.store.scratch import temporary_folder


def push(
    run: Run,
    name: Annotated[str, Argument(metavar="ORG/NAME", help="The dataset's name on the hub.")],
    public: Annotated[bool, Option("--public", help="Everyone may read it. Default: private.")] = False,
) -> None:
    """Upload a finished run folder to the hub as a dataset, every file of it. Private by default.

    The token is the hub's own (`hf auth login`, or HF_TOKEN). An unfinished run is refused.

    Example: mapjob push output/nightly org/nightly-pairs
    """
    from huggingface_hub import HfApi  # slow to import
    from huggingface_hub.errors import HTTPError

    folder = open_run(run).folder
    api = HfApi()
    try:
        url = api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
        if not public and not api.repo_info(name, repo_type="dataset").private:
            raise ConfigError("this dataset already exists and is public", name, "give --public, or another name")
        with temporary_folder() as copy:
            for file in folder.files():
                target = Path(copy) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(folder.read(file))
            api.upload_folder(
                repo_id=name, repo_type="dataset", folder_path=copy, commit_message=f"mapjob run {folder.run_id}"
            )
    except (HTTPError, OSError, ValueError) as error:
        do = "log in (`hf auth login`) with a token that may write to it"
        raise ConfigError(f"the hub rejected the upload: {first_line(error)}", name, do) from error
    print(f"pushed {one_line(folder.run_id)} to {url}")
