"""Scorers as a manifest keeps them: the fingerprints of what they scored, without their models."""

from collections.abc import Mapping
from typing import Any

from mapjob.config.load import fingerprint
from mapjob.config.run import Config
from mapjob.corpus.plan import Corpus
from mapjob.metrics.columns import COLLISION, UNCONDITIONAL
from mapjob.scoring.reader_families import derived_columns
from mapjob.scoring.spec import SCHEMA_VERSION, ScorerSpec, check_reference, scorer_style

Record = dict[str, Any]  # plain JSON values

HAS_TEMPLATE = "has_chat_template"
OF_CORPUS = ("schema_version", "reading")  # what a fingerprint covers that no model decides


def record(spec: ScorerSpec) -> Record:
    """What its fingerprint covers of the model, and whether that has a chat template."""
    of_model = {key: value for key, value in spec.identity.items() if key not in OF_CORPUS}
    return {**of_model, HAS_TEMPLATE: spec.files.has_chat_template}


def recorded_models(config: Config, records: Mapping[str, Record]) -> dict[str, Record]:
    """Those of the models that this run file scores with, by scorer. records: of a run with the same models."""
    models = {}
    for name, model in config.scored_models.items():
        if model is not None and name in records:
            models[name] = records[name]
        elif model is not None:  # a reference that the run file leaves out is the policy without its adapter
            models[name] = {key: value for key, value in records["policy"].items() if key != "adapter"}
    return models


def recorded_families(config: Config, corpus: Corpus, models: Mapping[str, Record]) -> dict[str, str]:
    """Name -> fingerprint of every column family, the records first, as the scorers of these models would have them.

    Raises ConfigError when implicit: dpo compares a policy with itself.
    """
    identities = {name: _identity(name, model, corpus) for name, model in models.items()}
    policy, wanted = identities.pop("policy"), config.selection.scored_columns
    scorers = {"policy": policy}
    if wanted & set(COLLISION):
        scorers["collision"] = {**policy, "kind": "collision_logps"}
    if wanted & set(UNCONDITIONAL):
        scorers["unconditional"] = {**policy, "encoding": {**policy["encoding"], "with_prompt": False}}
    fingerprints = {name: fingerprint(identity) for name, identity in (scorers | identities).items()}
    check_reference(config, fingerprints)
    derived = derived_columns(corpus, config.selection, policy["encoding"])
    return {columns.name: columns.fingerprint for columns in derived} | fingerprints


def _identity(name: str, model: Record, corpus: Corpus) -> dict[str, Any]:
    """`ScorerSpec.identity`, on the corpus as it is now."""
    of_model = {key: value for key, value in model.items() if key != HAS_TEMPLATE}
    style = scorer_style(name, model[HAS_TEMPLATE], corpus.style)
    encoding = {**model["encoding"], "style": style}
    return {**of_model, "schema_version": SCHEMA_VERSION, "encoding": encoding, "reading": corpus.identity}
