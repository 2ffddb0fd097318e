"""Requests to an engine, its responses, and the protocol of an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mapjob.corpus.records import Text
from mapjob.errors import RowError


@dataclass(frozen=True)
class Request:
    """A prompt to answer: messages, or a plain string that is continued. key: its random numbers depend on it."""

    key: str
    prompt: Text


@dataclass(frozen=True)
class Response:
    """One answer. num_tokens: its end-of-turn token included. finished: by the model, not by max_new_tokens.

    logps: sum over its tokens of the log-probability in nats that the model gave them, without temperature and top_p;
    None if the engine does not say.
    """

    text: str
    num_tokens: int
    finished: bool
    logps: float | None = None


class Engine(Protocol):
    def answer(self, requests: Sequence[Request], num_samples: int) -> list[list[Response] | RowError]:
        """`num_samples` responses to each request, in order; the RowError for a request that cannot be answered.

        The same request gets the same responses from the same engine, whatever other requests there are.
        """
        ...
