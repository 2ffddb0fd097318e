"""Which of transformers' classes loads a scorer's model, and whether transformers has it: from config.json alone.

The driver asks before any worker starts, so nothing here imports transformers' models, which takes seconds.
"""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from mapjob.errors import ModelError
from mapjob.escaping import first_line
from mapjob.scoring.model_files import ADAPTED
from mapjob.scoring.own_code import classes_of, needs_code
from mapjob.scoring.spec import ScorerSpec


def check_architecture(spec: ScorerSpec) -> None:
    """Raises ModelError when this model can be made neither by transformers nor by code of its own that is allowed."""
    where = f"models.{spec.name}.path: {spec.files.path}"
    # Only the workers run a model's own code, so here its name has to do.
    if spec.files.code_allowed and auto_class(spec).__name__ in classes_of(spec.files.folder(), where):
        return
    try:
        config = AutoConfig.from_pretrained(spec.files.folder(), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise needs_code("the model", where) from None
        raise ModelError(f"config.json is not usable: {first_line(error)}", where, "check the folder") from None
    if type(config) not in auto_class(spec)._model_mapping:
        needed = "causal language model" if spec.kind != "rewards" else "sequence classification model"
        raise ModelError(f"a {config.model_type} model is no {needed}", where, "give a model of that kind")


def auto_class(spec: ScorerSpec) -> Any:
    """The class of transformers that loads the scorer's model."""
    if spec.kind != "rewards":
        return AutoModelForCausalLM
    # A head of its own comes from scoring/rewards.py, so only the body under it is needed.
    return AutoModel if spec.files.architecture in ADAPTED else AutoModelForSequenceClassification
