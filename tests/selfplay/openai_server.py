"""A real HTTP server of the OpenAI API over a tiny model: chat and text completions, seeds, keys, bad moments."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class OpenAIServer(ThreadingHTTPServer):
    """faults: HTTP statuses that the next requests get in place of an answer. asked: bodies of all requests."""

    daemon_threads = True

    def __init__(self, folder: Path, key: str | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.key, self.faults = key, []
        self.asked: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @contextmanager
    def running(self) -> Iterator["OpenAIServer"]:
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        yield self
        self.shutdown()
        thread.join()
        self.server_close()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        if "messages" in body:
            text = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        else:
            text = body["prompt"]
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        stops = self.tokenizer.convert_tokens_to_ids(self.tokenizer.all_special_tokens)
        sampling = {"do_sample": False}
        if body["temperature"]:
            torch.manual_seed(body["seed"])
            sampling = {"do_sample": True, "temperature": body["temperature"], "top_p": body["top_p"], "top_k": 0}
        whole = self.model.generate(ids, max_new_tokens=body["max_tokens"], eos_token_id=stops, **sampling)
        written = whole[0, ids.shape[1] :]
        answer = self.tokenizer.decode(written, skip_special_tokens=True)
        choice = {"index": 0, "finish_reason": "stop" if written[-1] in stops else "length"}
        choice |= {"message": {"role": "assistant", "content": answer}} if "messages" in body else {"text": answer}
        return {"model": body["model"], "choices": [choice], "usage": {"completion_tokens": len(written)}}


class _Handler(BaseHTTPRequestHandler):
    server: OpenAIServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:  # torch has one generator
            self.server.asked.append(body)
            status = self.server.faults.pop(0) if self.server.faults else 200
            if self.server.key is not None and self.headers["Authorization"] != f"Bearer {self.server.key}":
                status = 401
            if self.path not in ("/v1/chat/completions", "/v1/completions"):
                status = 404
            said = self.server.complete(body) if status == 200 else {"error": {"message": f"no: {body} {self.headers}"}}
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
