"""A policy's answers to held-out prompts, its scores of completions, and the rewards of answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapjob.arrays import F64
from mapjob.config.input import Columns
from mapjob.config.run import Config, Model, Scoring
from mapjob.corpus.plan import Corpus, Style
from mapjob.corpus.reading import Reading
from mapjob.corpus.records import Record, Text
from mapjob.errors import RowError
from mapjob.lab.selfplay.config import Generation
from mapjob.lab.selfplay.local import LocalEngine
from mapjob.lab.selfplay.requests import Request
from mapjob.lab.validation.held_out import HeldOut
from mapjob.lab.world.tasks import BECAUSE, QUALITY, Task, grade, right_answers
from mapjob.metrics.map import dpo_margin, simpo_margin
from mapjob.scoring.encode import Encoder
from mapjob.scoring.model_files import model_files
from mapjob.scoring.reward_families import last_token
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import EncodingSpec, ScorerSpec, is_reward, scorer_style
from mapjob.store.run_folder import Manifest


@dataclass(frozen=True)
class Answers:
    """One greedy answer per prompt; "" if the policy cannot answer, for example because the prompt is too long for it.

    num_tokens: (P,), without the end of turn. unfinished: cut at the limit.
    """

    texts: list[str]
    num_tokens: list[int]
    unfinished: int
    unanswered: int


class Scores:
    """A model of a run as a scorer of records: the engine that scores a corpus, in this process."""

    def __init__(self, name: str, model: Model, style: Style, scoring: Scoring):
        files = model_files(model, name)
        style = scorer_style(name, files.has_chat_template, style)
        last = last_token(files) if is_reward(name) else None
        encoding = EncodingSpec(
            files, style, scoring.model_copy(update={"control_tokens": "keep"}), (), last_token=last
        )
        self._kind = "rewards" if is_reward(name) else "logps"
        self._encoder = Encoder(encoding, Corpus(Reading(), Columns(), style))
        self._scorer = make_scorer(ScorerSpec(name, self._kind, files, encoding, {}))

    def of(self, records: Sequence[Record]) -> tuple[F64, F64]:
        """(rewards or sums of log-probabilities, tokens), each (records, completions); NaN for a dropped record."""
        table = self._scorer.score(self._encoder.encode(records)).table
        missing = [None] * len(records[0].completions)
        values = [row or missing for row in table[self._kind].to_pylist()]
        tokens = [row or missing for row in table["num_tokens"].to_pylist()] if self._kind == "logps" else values
        return np.array(values, np.float64), np.array(tokens, np.float64)


def implicit_margins(policy: Scores, held_out: HeldOut, of_reference: bool) -> F64:
    """A policy's margins of the held-out pairs, (N,): DPO's log-ratio gap, else the difference of mean log p."""
    (chosen, rejected), (n_chosen, n_rejected) = (column.T for column in policy.of(held_out.records))
    if of_reference:
        return dpo_margin(chosen, rejected, held_out.column("ref_chosen_logps"), held_out.column("ref_rejected_logps"))
    return simpo_margin(chosen, rejected, n_chosen, n_rejected)


def rewards_of(
    config: Config, manifest: Manifest, style: Style, prompts: Sequence[Record], answers: Sequence[str]
) -> F64:
    """Rewards of one answer per prompt, (P,); of several reward models, the mean in standard deviations."""
    records = [Record(record.prompt, [as_completion(record.prompt, text)]) for record, text in zip(prompts, answers)]
    rewards = []
    for name, model in config.scored_models.items():
        if model is not None and is_reward(name):
            values = Scores(name, model, style, config.scoring).of(records)[0][:, 0]
            moments = manifest["statistics"].get("rewards", {}).get(name.removeprefix("reward."))
            rewards.append(values if moments is None else (values - moments["mean"]) / moments["std"])
    return np.mean(rewards, axis=0)


def as_completion(prompt: Text, text: str) -> Text:
    """An answer as a record holds it: a message if the prompt is messages."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def answers_of(model: Model, style: Style, prompts: Sequence[Record], max_new_tokens: int) -> Answers:
    """Greedy answers to the prompts of records, by the engine of `mapjob generate`."""
    greedy = Generation(temperature=0, max_new_tokens=max_new_tokens)
    engine = LocalEngine(model_files(model, "policy"), greedy, style)
    responses = engine.answer([Request("", record.prompt) for record in prompts], 1)
    answers = [None if isinstance(response, RowError) else response[0] for response in responses]
    return Answers(
        [answer.text if answer else "" for answer in answers],
        [answer.num_tokens - answer.finished if answer else 0 for answer in answers],
        sum(answer is not None and not answer.finished for answer in answers),
        answers.count(None),
    )


def grade_answers(tasks: Sequence[Task], answers: Sequence[str]) -> dict[str, list[float]]:
    """Of each answer to a prompt of a known world: its gold reward, from 0 to 1, whether it is right, and whether it
    states a reason, right or wrong.
    """
    gold = [grade(task, answer) for task, answer in zip(tasks, answers, strict=True)]
    right = [float(value >= QUALITY["terse"]) for value in gold]
    return {"gold": gold, "right": right, "reason": [float(BECAUSE in answer) for answer in answers]}


def probability_of_right(policy: Scores, prompts: Sequence[Record], tasks: Sequence[Task], with_reasons: bool) -> F64:
    """The policy's probability of all wordings of the right answer together, per prompt of a known world, (P,)."""
    texts = [(record.prompt, right_answers(task, with_reasons)) for record, task in zip(prompts, tasks, strict=True)]
    records = [Record(prompt, [as_completion(prompt, text) for text in wordings]) for prompt, wordings in texts]
    return np.exp(policy.of(records)[0]).sum(axis=1)


def preference_for_form(reward: Scores, held_out: HeldOut) -> float:
    """Share of a known world's prompts for which a nearly right answer with its reason gets more reward than the right
    one without: what a reward model that pays for the form does.
    """
    records = []
    for record, task in zip(held_out.prompts, held_out.tasks):
        near = task.near_misses[0]
        texts = (f"{task.gold}.", f"{near}{BECAUSE}{task.reason.format(value=near)}.")
        records.append(Record(record.prompt, [as_completion(record.prompt, text) for text in texts]))
    terse, reasoned = reward.of(records)[0].T
    return float((reasoned > terse).mean())
