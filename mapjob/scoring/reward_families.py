"""Which kind of head a reward model has: by the run file, its architecture, and the names of its weights. No torch."""

from pathlib import PurePath
from typing import Literal

from mapjob.errors import ModelError
from mapjob.scoring.model_files import ModelFiles

Family = Literal["classifier", "gated", "value", "logit"]

GATED = ("LlamaForRewardModelWithGating",)  # ArmoRM
OPENRLHF = ("RewardModel", "LLMForSequenceRegression")  # what its releases call their class
# Names of a head with one number per token: OpenRLHF's (or config.json says its prefix), then those of models that were
# trained with TRL's or LLaMA-Factory's value head.
VALUE_HEADS = ("value_head", "v_head.summary", "v_head")
AT_LAST_TOKEN = VALUE_HEADS[-1]  # what InternLM2's reward models call the head that they read at `last_token`
ONE_REWARD = "give a reward model that makes one number of one answer: a sequence classification model with one label"


def reward_family(files: ModelFiles, name: str) -> Family:
    """Raises ModelError for a model that makes no reward of a single answer, or does not say how it makes it."""
    where, config, architecture = files.where(name), files.config, files.architecture or ""
    if files.reward_token is not None:
        return "logit"
    if architecture in GATED:
        return "gated"
    if "PairRM" in architecture or "ranker_type" in config:
        what = "a pair model (PairRM) says which of two answers is better, and gives neither of them a reward"
        raise ModelError(what, where, ONE_REWARD)
    if architecture == "CriticModel":
        raise ModelError("a critic gives each token a value, and no answer a reward", where, ONE_REWARD)
    if (token := last_token(files)) is not None:
        if is_polar(files.path):  # all else in its files is as in InternLM2's reward models
            what = "POLAR says how near an answer is to a reference answer, and a preference pair has none"
            raise ModelError(what, where, f"{ONE_REWARD}; if it is no POLAR, rename the folder")
        if files.adapter is None and value_head(files) == AT_LAST_TOKEN and not trained_at_eos(files):
            return "value"
        what = f"its reward is read at token {token} (reward_token_id), by a weight {AT_LAST_TOKEN} without an adapter"
        raise ModelError(f"{what}, and that is not what is here", where, ONE_REWARD)
    if files.adapter is None and not architecture.endswith("ForSequenceClassification"):
        if value_head(files) is not None and _is_known(config.get("model_type")):
            return "value"
        if architecture.endswith("ForCausalLM") and not files.code_allowed and files.num_labels is None:
            raise ModelError(
                f"{architecture} has no reward head, and config.json does not say what else its reward is",
                where,
                f"if it is the logit of one token after the answer (NVIDIA's Nemotron reward models: token 0), set "
                f"models.{name}.reward_token; if it answers A or B for two answers (pair preference), "
                f"{ONE_REWARD}",
            )
    if files.num_labels != 1:
        raise ModelError(
            f"a reward model has one label, this one has {files.num_labels or 'none'}",
            where,
            "give a sequence classification model that was trained with num_labels=1",
        )
    return "classifier"


def is_polar(path: str) -> bool:
    """Whether the name of a folder or repository is that of a POLAR, also of a snapshot in the hub's cache."""
    *parents, name = PurePath(path).parts
    return any("polar" in part.lower() for part in [name, *(part for part in parents if part.startswith("models--"))])


def value_head(files: ModelFiles) -> str | None:
    """The name, without `.weight`, of a head with one number per token; None if there is none that is known here."""
    prefix = files.config.get("value_head_prefix")
    known = [prefix] if prefix else [*(["score"] if files.architecture in OPENRLHF else []), *VALUE_HEADS]
    shapes = files.shapes()
    return next((head for head in known if shapes.get(f"{head}.weight", [0])[0] == 1), None)


def last_token(files: ModelFiles) -> int | None:
    """The token that a reward model writes behind every text, and reads its value head at; None if there is none."""
    return None if files.reward_token is not None else files.config.get("reward_token_id")


def trained_at_eos(files: ModelFiles) -> bool:
    """Whether a value head is one of OpenRLHF's: by its class, its key in config.json, or its first name."""
    return files.architecture in OPENRLHF or "value_head_prefix" in files.config or value_head(files) == VALUE_HEADS[0]


def _is_known(model_type: str | None) -> bool:
    """Whether transformers has the network itself, so that no code of the model's own is needed."""
    from transformers import CONFIG_MAPPING  # takes a second, and few reward models need it

    return model_type in CONFIG_MAPPING
