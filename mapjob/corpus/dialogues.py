"""Prompt and completions as messages, from the prompt's columns and from answers that may be whole dialogues."""

import re
from typing import Any

from mapjob.corpus.cells import HH_OPENING, read_turns, shape_of
from mapjob.corpus.records import Message
from mapjob.errors import Reason, RowError

Cells = dict[str, Any]  # by column, or by the name that an error gives them
Dialogue = list[Message]


def is_system(path: str) -> bool:
    """Whether a column's name says that its text is the system's: system, sys_prompt, customSystemPrompt, preamble."""
    return bool({"system", "sys", "preamble"} & set(tokens(path.rpartition(".")[2])))


def tokens(name: str) -> list[str]:
    """The words of a column's name, numbers apart."""
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def read_dialogue(prompt: Cells, answers: Cells) -> tuple[Dialogue, list[Dialogue]]:
    """(prompt, completions). Raises RowError for cells that are no dialogue with two or more ends."""
    if not answers:
        raise RowError(Reason.TOO_FEW_COMPLETIONS, "0 completions")
    if (interleaved := _interleave(prompt, answers)) is not None:
        return interleaved
    given = _read_prompt(prompt)
    sides = {name: _read_answer(value, name) for name, value in answers.items()}
    for name, turns in sides.items():
        if not turns:
            raise RowError(Reason.BAD_MESSAGES, f"{name}: no list of messages")
        if turns[-1]["role"] != "assistant":
            raise RowError(Reason.BAD_MESSAGES, f"{name}: the dialogue does not end in an assistant turn")
    completions = list(sides.values())
    opens = [turns[0]["role"] == "assistant" for turns in completions]
    lone = [isinstance(value, str) for value in answers.values()]
    whole = [isinstance(value, list) for value in answers.values()]
    if not prompt and opens == lone and True in lone and True in whole and lone != whole:
        # A whole dialogue, and another end of it as a string (ms-swift: messages and rejected_response).
        start = completions[lone.index(False)][:-1]
        completions = [start + turns if is_lone else turns for turns, is_lone in zip(completions, lone)]
        opens = [False] * len(completions)
    if not any(opens):
        inside, completions = split_dialogues(completions)
        given = _join_prompts(given, inside, " and ".join(prompt))
    elif not all(opens):
        name = list(sides)[opens.index(False)]
        raise RowError(Reason.BAD_MESSAGES, f"{name} is a whole dialogue, and another answer is not")
    if not given:
        if prompt and all(value is None for value in prompt.values()):
            raise RowError(Reason.NULL_FIELD, f"{' and '.join(prompt)} is null")
        raise RowError(Reason.BAD_MESSAGES, "no prompt")
    if given[-1]["role"] == "assistant":
        raise RowError(Reason.BAD_MESSAGES, "the prompt ends in an assistant turn")
    return given, completions


def split_dialogues(dialogues: list[Dialogue]) -> tuple[Dialogue, list[Dialogue]]:
    """(prompt, completions): cut after the longest common start behind which the assistant opens every completion.

    Raises RowError if there is none, or if a dialogue does not end in an assistant turn.
    """
    if any(not turns or turns[-1]["role"] != "assistant" for turns in dialogues):
        raise RowError(Reason.BAD_MESSAGES, "the dialogue does not end in an assistant turn")
    end = min(map(len, dialogues)) - 1
    common = next((i for i in range(end) if any(d[i] != dialogues[0][i] for d in dialogues)), end)
    while common and any(d[common]["role"] != "assistant" for d in dialogues):
        common -= 1
    if common == 0:
        raise RowError(Reason.BAD_MESSAGES, "chosen and rejected share no prompt")
    return dialogues[0][:common], [d[common:] for d in dialogues]


def _read_answer(value: Any, name: str) -> Dialogue:
    return [{"role": "assistant", "content": ""}] if value == "" else read_turns(value, "assistant", name)


def _read_prompt(cells: Cells) -> Dialogue:
    """The columns' turns in their order; plain strings of the user that follow each other are one turn, as
    LLaMA-Factory joins instruction and input (llamafactory/data/converter.py)."""
    turns: Dialogue = []
    joins = False
    for path, cell in cells.items():
        if cell is None or (cell == "" and len(cells) > 1):
            continue
        is_text = isinstance(cell, str) and not is_system(path) and not cell.startswith(HH_OPENING)
        if is_text and joins:
            turns[-1] = {**turns[-1], "content": f"{turns[-1]['content']}\n{cell}"}
        else:
            turns = _append(turns, read_turns(cell, "system" if is_system(path) else "user", path), path)
        joins = is_text
    return turns


def _append(turns: Dialogue, more: Dialogue, path: str) -> Dialogue:
    """Turns and those of a further column, which may repeat the system's turn or the question at their end."""
    if turns and more and turns[-1]["role"] == "user" and turns[-1] == more[0]:
        return turns + more[1:]
    if turns and more and more[0]["role"] == "system":
        if more[0] not in turns and any(turn["role"] == "system" for turn in turns):
            raise RowError(Reason.BAD_MESSAGES, f"{path} has another system message than the columns before it")
        return [more[0], *(turn for turn in turns if turn != more[0]), *more[1:]]
    return turns + more


def _interleave(prompt: Cells, answers: Cells) -> tuple[Dialogue, list[Dialogue]] | None:
    """Dialogues whose turns lie in lists: the user's in the prompt, the assistant's in each answer (Chatbot Arena)."""
    lists = [path for path, cell in prompt.items() if shape_of(cell) == "texts"]
    if len(lists) != 1 or not all(shape_of(answer) == "texts" for answer in answers.values()):
        return None
    asked = prompt[lists[0]]
    dialogues = []
    for name, answer in answers.items():
        if len(answer) != len(asked):
            raise RowError(Reason.BAD_MESSAGES, f"{name}: {len(answer)} answers to {len(asked)} prompts")
        pairs = [text for pair in zip(asked, answer) for text in pair]
        if any(text is None for text in pairs):
            raise RowError(Reason.NULL_FIELD, f"{name}: a turn is null")
        roles = ("user", "assistant") * len(asked)
        dialogues.append([{"role": role, "content": text} for role, text in zip(roles, pairs)])
    common, completions = split_dialogues(dialogues)
    return _read_prompt({path: cell for path, cell in prompt.items() if path != lists[0]}) + common, completions


def _join_prompts(given: Dialogue, inside: Dialogue, columns: str) -> Dialogue:
    """The prompt of whole dialogues, with what only the prompt's columns have: system turns, or earlier turns.

    Raises RowError if the columns hold a prompt that the dialogues do not.
    """
    system = [turn for turn in given if turn["role"] == "system" and turn not in inside]
    given_words, asked = ([_words(turn) for turn in turns if turn["role"] != "system"] for turns in (given, inside))
    if system and len(asked) < len(inside):
        raise RowError(Reason.BAD_MESSAGES, f"{columns} and the dialogues have different system messages")
    if not given_words or any(asked[start : start + len(given_words)] == given_words for start in range(len(asked))):
        return system + inside
    if asked and given_words[-len(asked) :] == asked:  # the columns have the whole prompt, the answers its end
        return given[: -len(inside)] + inside
    raise RowError(Reason.BAD_MESSAGES, f"{columns}: its text is not in the prompt of the dialogues beside it")


def _words(turn: Message) -> tuple[str, str]:
    return turn["role"], (turn["content"] or "").strip()
