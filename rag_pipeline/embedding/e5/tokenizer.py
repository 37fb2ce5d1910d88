"""XLM-RoBERTa's tokenizer: sentencepiece, with the vocabulary of the model file."""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
from pathlib import Path
from typing import Any

from rag_pipeline.embedding.e5.model_file import ModelFile
from rag_pipeline.private_files import make_private_folder, write_private

_SHA256 = "568e4aa791610a42f83d3dc57325722018e27e7c0075e80155486260c7fe3457"
_SPACES = re.compile(" {2,}")

# Fields of sentencepiece's ModelProto (sentencepiece_model.proto).
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_UNIGRAM = 1

_PREFIX_TOKENS = 2  # ▁passage and :


class Tokenizer:
    """Text → token ids. Thread-safe.

    sentencepiece wants the vocabulary in a format of its own, which takes a second to make: it is kept as a file of
    5 MB in `folder`, unless that cannot be written.
    """

    def __init__(self, file: ModelFile, folder: Path | None) -> None:
        import sentencepiece

        self._rewritten = file.rewritten
        self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=_kept(file, folder))

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text's tokens, without those that mark its start and end."""
        ids: list[int] = self._processor.EncodeAsIds(_SPACES.sub(" ", text.translate(self._rewritten)))
        return ids

    def count(self, text: str) -> int:
        """Return the number of tokens of a passage, without those that the model adds."""
        return len(self.ids(f"passage: {text}")) - _PREFIX_TOKENS


def vocabulary(file: ModelFile) -> bytes:
    """Return the vocabulary as sentencepiece's ModelProto: a unigram model that changes nothing but spaces."""
    controls = {file.start, file.end, file.padding}
    pieces = []
    for number, (piece, score) in enumerate(zip(file.pieces(), file.scores.tolist(), strict=True)):
        kind = (
            _UNKNOWN
            if number == file.unknown
            else _CONTROL
            if number in controls or piece == b"<mask>"
            else _NORMAL
        )
        entry = _bytes(1, piece) + b"\x15" + struct.pack("<f", score)
        pieces.append(_bytes(_PIECES, entry if kind == _NORMAL else entry + _number(3, kind)))
    trainer = _number(3, _UNIGRAM) + b"".join(
        _number(field, number)
        for field, number in ((40, file.unknown), (41, file.start), (42, file.end), (43, file.padding))
    )
    # adds the space in front of a text, keeps all others (we squeeze them), and writes spaces as ▁
    normalizer = _bytes(1, b"identity") + _number(3, 1) + _number(4, 0) + _number(5, 1)
    return b"".join(pieces) + _bytes(_TRAINER, trainer) + _bytes(_NORMALIZER, normalizer)


def _kept(file: ModelFile, folder: Path | None) -> bytes:
    if folder is None:
        return vocabulary(file)
    path = folder / "multilingual-e5.sentencepiece"
    with contextlib.suppress(OSError):
        found = path.read_bytes()
        if hashlib.sha256(found).hexdigest() == _SHA256:
            return found
    made = vocabulary(file)
    with contextlib.suppress(OSError):  # it takes a second again next time
        make_private_folder(folder)
        write_private(path, made)
    return made


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
