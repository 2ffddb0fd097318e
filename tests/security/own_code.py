"""A policy that comes with code of its own, model and tokenizer, which writes down every process that imports it."""

import json
import shutil
from pathlib import Path

NOTE = """
import os, sys
with open(os.environ["NOTED_IN"], "a") as file:
    print(__name__.split(".")[-1], sys.argv[0], file=file)
"""

MODEL = (
    NOTE
    + """
from transformers import LlamaConfig, LlamaForCausalLM
from .parts import SCALE

class OwnConfig(LlamaConfig):
    model_type = "our_own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.norm.register_forward_hook(lambda module, inputs, output: output * SCALE)
"""
)

TOKENIZER = (
    NOTE
    + """
from transformers import PreTrainedTokenizerFast

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
)


def with_own_code(policy: Path, folder: Path) -> Path:
    """A copy of a Llama policy that only its own code can load."""
    shutil.copytree(policy, folder)
    auto_map = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    change(folder / "config.json", model_type="our_own", architectures=["OwnModel"], auto_map=auto_map)
    own = {"AutoTokenizer": [None, "tokens_own.OwnTokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=own)
    (folder / "modeling_own.py").write_text(MODEL)
    (folder / "parts.py").write_text("SCALE = 1.0\n")
    (folder / "tokens_own.py").write_text(TOKENIZER)
    return folder


def change(file: Path, **keys: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
