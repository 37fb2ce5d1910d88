"""A BGE-M3 model on disk: find or download it, check it, and compute its digest. The model is not loaded here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from rag_pipeline.errors import ConfigError, one_line
from rag_pipeline.language.words import comparable

_HEADS = ("sparse_linear.pt", "colbert_linear.pt")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER = ("tokenizer*.json", "sentencepiece*.model")
_SAMPLE_BYTES = 1024 * 1024


def find_model(model: str) -> Path:
    """Return the folder of a BGE-M3 model, given as a folder or as a name on the Hugging Face Hub.

    A named model that is already downloaded is used without contacting the Hub: an index must not get another
    model because somebody published one. Raises `ConfigError` if the model does not exist or is incomplete.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _downloaded(model)
    if missing := _missing(folder):
        # FlagEmbedding would replace missing heads by random ones.
        raise ConfigError(f"RAG_BGE_M3_MODEL={model}: not a complete BGE-M3 model, missing: {', '.join(missing)}")
    return folder


def hidden_size(folder: Path) -> int:
    """Return the dimension of the model's vectors. Raises `ConfigError` if `config.json` does not contain it."""
    try:
        return int(json.loads((folder / "config.json").read_bytes())["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / 'config.json'}: cannot read hidden_size: {one_line(error)}") from error


def token_counter(folder: Path) -> Callable[[str], int]:
    """Return what counts the tokens of a text as the model's tokenizer does, without the model and PyTorch.

    The vocabulary, 100 MB of memory, is loaded with the first text. Raises `ConfigError` if it is not there.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"RAG_SHARED_MODEL: {folder} has no tokenizer.json: unset it")

    @cache
    def tokenizer() -> Any:
        from tokenizers import Tokenizer

        loaded = Tokenizer.from_file(str(path))
        loaded.no_truncation()
        loaded.no_padding()
        return loaded

    def count(text: str) -> int:
        return len(tokenizer().encode(comparable(text), add_special_tokens=False).ids)

    return count


def digest(folder: Path) -> str:
    """Return eight characters that identify the model, independent of its location.

    They are computed from the configuration, the heads, the tokenizer and the weights; of each file only the size
    and both ends are read, which is enough for the encoder's 2 GB because training changes every weight.
    """
    found = hashlib.sha256()
    patterns = ("config.json", *_HEADS, *_TOKENIZER, *_WEIGHTS)
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            found.update(file.read(_SAMPLE_BYTES))
            file.seek(max(size - _SAMPLE_BYTES, 0))
            found.update(file.read(_SAMPLE_BYTES))
    return found.hexdigest()[:8]


def _missing(folder: Path) -> list[str]:
    missing = [name for name in ("config.json", *_HEADS) if not (folder / name).is_file()]
    if not any(True for pattern in _WEIGHTS for _ in folder.glob(pattern)):
        missing.append("weights (model.safetensors or pytorch_model.bin)")
    return missing


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", *_HEADS, *_WEIGHTS, *_TOKENIZER]
    try:
        try:
            folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
            if not _missing(folder):
                return folder
        except LocalEntryNotFoundError:
            pass  # not downloaded yet
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"RAG_BGE_M3_MODEL={name}: neither a folder nor available from the Hugging Face Hub: "
            f"download the model and set its folder ({one_line(error, 200)})"
        ) from error
