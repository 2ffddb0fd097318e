"""Tokenizers of the models: loaded once a process, and the special tokens that text must not smuggle in."""

from functools import lru_cache

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mapjob.errors import ModelError
from mapjob.escaping import first_line
from mapjob.scoring.model_files import ModelFiles
from mapjob.scoring.own_code import needs_code


@lru_cache(maxsize=8)
def load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises ModelError when there is none that transformers can load.

    Its own code is run only where the run file and the command line allow it.
    """
    try:
        return AutoTokenizer.from_pretrained(files.folder(), trust_remote_code=files.runs_own_code())
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        if "trust_remote_code" in str(error):
            raise needs_code("the tokenizer", files.path) from None
        raise ModelError(
            f"the tokenizer cannot be loaded: {first_line(error)}",
            files.path,
            "give a folder whose tokenizer transformers knows, saved with save_pretrained",
        ) from None


def check_vocabulary(name: str, files: ModelFiles) -> None:
    """Raises ModelError when the tokenizer can write ids for which the model has no embedding."""
    size = files.config.get("vocab_size")
    token, largest = max(load_tokenizer(files).get_vocab().items(), key=lambda entry: entry[1])
    if size is not None and largest >= size:
        raise ModelError(
            f"the tokenizer is larger than the model's embedding: {token!r} is token {largest}, the model has {size}",
            f"models.{name}.path: {files.path}",
            "give the model its own tokenizer, or resize its embedding and train it",
        )


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Every string that this tokenizer reads as a control token when it meets it in text, sorted."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*tokenizer.all_special_tokens, *added} - {""}))
