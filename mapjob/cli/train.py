"""`mapjob train`: a model trained on a selection."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from mapjob.cli.options import Result, Run
from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.errors import ConfigError, check_extra
from mapjob.escaping import one_line
from mapjob.lab.training.config import Objective, Training
from mapjob.store.run_folder import open_run


def train(
    run: Run,
    objective: Annotated[
        Objective,
        Option(
            help="simpo, repo, amapo and gamma_po work with any run; dpo, madpo, bpo and mmpo need a scored reference."
        ),
    ],
    model: Annotated[
        str | None, Option(metavar="PATH", help="Folder, or name on the hub. Default: the run's policy.")
    ] = None,
    output: Annotated[
        Path | None, Option(metavar="DIR", help="A new folder. Default: trained/<objective>-<run id>.")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        Option("--set", metavar="NAME=VALUE", help="A parameter of the objective, above 0: --set beta=2.5"),
    ] = None,
    lora: Annotated[bool, Option("--lora", help="Train an adapter of rank 16, and merge it at the end.")] = False,
    epochs: Annotated[float, Option(min=0.001)] = 1.0,
    batch_size: Annotated[int, Option(min=1, help="Pairs per forward pass.")] = 8,
    accumulate: Annotated[int, Option(min=1, help="Forward passes per step.")] = 16,
    learning_rate: Annotated[float | None, Option(min=0.0, help="Default: 1e-6, with --lora 1e-5.")] = None,
    max_steps: Annotated[int | None, Option(min=1, help="Instead of --epochs.")] = None,
    max_length: Annotated[int | None, Option(min=2, help="Longer pairs are dropped. Default: that of the run.")] = None,
    seed: Annotated[int, Option(min=0)] = 0,
) -> Result:
    """Train a model on the selection of a finished run. No reference model is loaded.

    Needs TRL: pip install 'mapjob\\[train]'. The folder that it writes can be models.policy.path of the next run.

    Example: mapjob train runs/demo --objective simpo --output trained --learning-rate 1e-5 --set beta=2.5
    """
    check_extra("trl", "train", "training", "mapjob train")
    from mapjob.lab.training import train as training

    options: dict[str, Any] = {"batch_size": batch_size, "learning_rate": learning_rate, "max_steps": max_steps}
    options |= {"accumulate": accumulate, "epochs": epochs, "max_length": max_length, "seed": seed, "lora": lora}
    for text in parameters or []:
        if "=" not in text:
            raise ConfigError(f"not a parameter: {text!r}", "--set", "write it as name=number")
    options["parameters"] = dict(text.split("=", 1) for text in parameters or [])
    recipe = parse_config({"objective": objective, **options}, "mapjob train", Training)
    finished = open_run(run)
    folder = output or Path("trained") / f"{objective}-{finished.folder.run_id}"
    result = training.train(finished, recipe, folder, None if model is None else Model(path=model))
    values = ", ".join(f"{name} {value:g}" for name, value in result["parameters"].items() if value is not None)
    print(f"objective  {objective} ({values})")
    print(f"pairs      {result['pairs']:>12,}")
    for reason, number in result["dropped"].items():
        if number:
            print(f"  dropped, {reason:<14}{number:>9,}")
    print(f"steps      {result['steps']:>12,}")
    print(f"first loss {result['first_loss']:>12.4f}")
    print(f"last loss  {result['last_loss']:>12.4f}")
    print(f"model: {one_line(result['output'])}")
    return result
