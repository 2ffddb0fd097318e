"""The engine `openai`: a server of the OpenAI API (vLLM, SGLang, TGI, `transformers serve`), one request per sample."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from mapjob.errors import ConfigError, IncompleteError, MapjobError, Reason, RowError
from mapjob.escaping import redact
from mapjob.lab.selfplay.config import Generation
from mapjob.lab.selfplay.requests import Request, Response
from mapjob.store.remote import ATTEMPTS, retry

KEY = "OPENAI_API_KEY"
OF_THE_REQUEST = {400, 413, 422}  # the server rejects this prompt, not all of them
BUSY = {408, 409, 425, 429, 500, 502, 503, 504}


class ServerEngine:
    """Each sample has a seed of its own, so that a server that honours seeds answers a rerun alike.

    The key goes from the environment into the header of the request, and nowhere else.
    """

    def __init__(self, generation: Generation):
        assert generation.server is not None, "the run file names one"
        self._generation, self._server = generation, generation.server
        self._url = self._server.url.rstrip("/")
        if redact(self._url) != self._url or not _is_plain(self._url):
            raise ConfigError(
                "this is not a plain http(s) URL, or it holds a password",
                f"generation.server.url: {redact(self._url)}",
                f"give http(s)://host:port/v1, and the server's key, if it needs one, as {KEY} in the environment",
            )

    def __str__(self) -> str:
        return f"policy: {self._server.model} of {self._url}, {self._server.concurrency} requests at a time"

    def answer(self, requests: Sequence[Request], num_samples: int) -> list[list[Response] | RowError]:
        samples = [(request, sample) for request in requests for sample in range(num_samples)]
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        width = self._server.concurrency
        with (
            httpx2.Client(
                headers=headers, timeout=self._server.timeout_s, limits=httpx2.Limits(max_connections=width)
            ) as client,
            ThreadPoolExecutor(width) as threads,
        ):
            answers = list(threads.map(lambda item: self._answer(client, *item), samples))
        per_request = [answers[start : start + num_samples] for start in range(0, len(answers), num_samples)]
        return [next((a for a in answers if isinstance(a, RowError)), answers) for answers in per_request]

    def _answer(self, client: httpx2.Client, request: Request, sample: int) -> Response | RowError:
        g = self._generation
        body: dict[str, Any] = {"model": self._server.model, "max_tokens": g.max_new_tokens}
        body |= {"temperature": g.temperature, "top_p": g.top_p, "seed": _seed(g.seed, request.key, sample)}
        if g.top_k is not None:
            body["top_k"] = g.top_k  # not of OpenAI's own API, but of every server of open models
        is_chat = not isinstance(request.prompt, str)
        body |= {"messages": request.prompt} if is_chat else {"prompt": request.prompt}
        try:
            reply = self._post(client, "chat/completions" if is_chat else "completions", body)
            choice = reply["choices"][0]
            text = (choice["message"]["content"] if is_chat else choice["text"]) or ""
            return Response(text, int(reply["usage"]["completion_tokens"]), choice["finish_reason"] == "stop")
        except RowError as error:
            return error
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._failure(f"the server's answer is not that of the OpenAI API ({type(error).__name__})") from None

    def _post(self, client: httpx2.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            reply = client.post(f"{self._url}/{path}", json=body)
            if reply.status_code in BUSY:
                raise ConnectionError(f"HTTP {reply.status_code}")
            if not reply.is_success:
                raise self._refusal(reply.status_code, reply.text)
            return reply.json()

        try:
            return retry(ask)
        except (ConnectionError, httpx2.RequestError) as error:
            raise IncompleteError(
                f"the server did not answer in {ATTEMPTS} attempts ({redact(str(error))})",
                f"generation.server.url: {self._url}",
                "when the server answers, run the same command again: it resumes from what is committed",
            ) from None

    def _refusal(self, status: int, reply: str) -> Exception:
        """The reply may repeat the prompt or the key, so none of it is passed on."""
        if status in OF_THE_REQUEST:
            is_long = status == 413 or "context length" in reply or "too long" in reply
            return RowError(Reason.OVERLENGTH if is_long else Reason.TEMPLATE_ERROR, f"the server says HTTP {status}")
        if status in (401, 403):
            return self._failure(f"the server rejects the key, or needs one (HTTP {status})", f"set {KEY}")
        return self._failure(f"the server says HTTP {status}", "check the URL and the model's name on the server")

    def _failure(self, what: str, do: str = "give the URL of an OpenAI-compatible server, up to /v1") -> MapjobError:
        return ConfigError(what, f"generation.server.url: {self._url}, model {self._server.model}", do)


def _is_plain(url: str) -> bool:
    try:
        return httpx2.URL(url).scheme in ("http", "https") and bool(httpx2.URL(url).host)
    except httpx2.InvalidURL:
        return False


def _seed(seed: int, key: str, sample: int) -> int:
    """31 bits: servers take no more."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}\0{sample}".encode(), digest_size=4).digest(), "big") >> 1
