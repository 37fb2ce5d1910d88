"""A BGE-M3 model on disk: found or downloaded, checked, and told apart from others. Nothing is loaded here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rag_pipeline.errors import ConfigError, one_line

_HEADS = ("sparse_linear.pt", "colbert_linear.pt")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER = ("tokenizer*.json", "sentencepiece*.model")
_SAMPLE_BYTES = 1024 * 1024


def find_model(model: str) -> Path:
    """The folder of a BGE-M3 model, given as a folder or as a name on the Hugging Face Hub.

    A named model that was downloaded before is used as it is, without asking the Hub: an index must not get another
    model because somebody published one. Raises `ConfigError` if there is no such model or a part of it is missing.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _downloaded(model)
    if missing := _missing(folder):
        # Without its two heads FlagEmbedding would go on with random ones.
        raise ConfigError(f"RAG_BGE_M3_MODEL={model}: no BGE-M3 model, it lacks {', '.join(missing)}")
    return folder


def hidden_size(folder: Path) -> int:
    """The dimension of the model's vectors. Raises `ConfigError` if its `config.json` does not say."""
    try:
        return int(json.loads((folder / "config.json").read_bytes())["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / 'config.json'}: no hidden_size can be read: {one_line(error)}") from error


def digest(folder: Path) -> str:
    """Eight characters that differ between models, wherever they lie: of the heads, the tokenizer, and samples.

    Of the encoder's 2 GB only the size and the two ends are read: training changes every weight.
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
        missing.append("its weights (model.safetensors or pytorch_model.bin)")
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
            f"RAG_BGE_M3_MODEL={name}: is no folder, and the Hugging Face Hub does not give it; "
            f"download the model and name its folder: {one_line(error, 200)}"
        ) from error
