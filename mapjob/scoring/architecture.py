"""Which of transformers' classes loads a model, and whether transformers has it: from config.json alone.

The driver asks before any worker starts, so nothing here imports transformers' models, which takes seconds.
"""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from mapjob.errors import ModelError
from mapjob.escaping import first_line
from mapjob.scoring.costs import model_config, token_cost
from mapjob.scoring.model_files import ModelFiles
from mapjob.scoring.own_code import classes_of, needs_code
from mapjob.scoring.reward_families import reward_family
from mapjob.scoring.spec import Kind

CLASSIFIERS = ("Classification", "RewardModel")  # how their names end


def check_architecture(files: ModelFiles, kind: Kind, name: str) -> None:
    """Raises ModelError when this model can be made neither by transformers nor by code of its own that is allowed."""
    where = files.where(name)
    try:
        model_config(files)
    except Exception as error:  # noqa: BLE001 (configurations check themselves, each in its own way)
        what = f"config.json is no configuration of {files.architecture}: {first_line(error)}"
        raise ModelError(what, where, "check the folder, or give a model of another architecture") from None
    try:
        token_cost(files)
    except (AttributeError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        what = f"config.json does not say the sizes of its layers ({files.architecture}): {first_line(error)}"
        raise ModelError(what, where, "give a model of another architecture") from None
    if kind != "rewards" and (files.architecture or "").endswith(CLASSIFIERS):
        what = f"{files.architecture} is a classifier or a reward model: its output layer was not trained on text"
        raise ModelError(what, where, "give a causal language model; models.reward takes this one")
    # Only the workers run a model's own code, so here its name has to do.
    loader = auto_class(files, kind, name)
    if files.code_allowed and loader.__name__ in classes_of(files.folder(), where):
        return
    try:
        config = AutoConfig.from_pretrained(files.folder(), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise needs_code("the model", where) from None
        raise ModelError(f"config.json is not usable: {first_line(error)}", where, "check the folder") from None
    if type(config) not in loader._model_mapping:
        needed = "sequence classification model" if loader is AutoModelForSequenceClassification else "language model"
        raise ModelError(f"a {config.model_type} model is no {needed}", where, "give a model of that kind")


def auto_class(files: ModelFiles, kind: Kind, name: str) -> Any:
    """The class of transformers that loads the model. name: what the run file calls it."""
    family = reward_family(files, name) if kind == "rewards" else "logit"
    # Of a model whose head is made here, only the backbone under it is needed.
    return {"logit": AutoModelForCausalLM, "classifier": AutoModelForSequenceClassification}.get(family, AutoModel)
