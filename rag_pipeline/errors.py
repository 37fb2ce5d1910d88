"""The errors that people see: one line each, naming the thing and saying what to do.

    RagError                      anything that a person can fix; shown without a traceback
    ├── ConfigError               fix the setting, `sources.yaml` or the argument that it names
    ├── StoreUnavailableError     start or free the store or the embedder, then run again: nothing was lost
    │   └── LockLostError         run again: another run may have begun on what this one was writing
    ├── DataRefusedError          fix the document that the chunk is from; the chunk is marked `failed`
    ├── PrivilegeError            grant the privilege that it names, then run again
    ├── BusyError                 wait for the other run, then run again
    ├── SourceError               fix access to the source; its documents stay as they are
    ├── DocumentError             fix the document at its source, or leave it quarantined
    │   └── VanishedError         nothing: the next complete scan finds what is gone
    ├── AnotherEmbedderError      use the embedder that made the index, or build another index
    └── DimensionMismatchError    use the embedder that made the collection, or another collection

Who catches what: a run stops on `StoreUnavailableError` and `DimensionMismatchError`, continues without the source on
`SourceError` and without the document on `DocumentError`; any other `RagError` ends its month, and the next one runs.
A check reports a `PrivilegeError` as a finding. The command line turns each into one line and exit code 1, Dagster
into the failure of a step.

The base class and the kinds that callers distinguish belong here. An error that only one module raises and nobody
catches by kind is a plain `RagError`.
"""

from __future__ import annotations

from typing import Any, Self


class RagError(Exception):
    """Something that a person can fix. Its text is one line that says how; it is shown without a traceback."""

    @classmethod
    def saying(cls, text: str) -> Self:
        """Return an error of this kind with a text, whatever this kind is otherwise made of."""
        error = cls.__new__(cls)
        Exception.__init__(error, text)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).saying, (str(self),), self.__dict__


class ConfigError(RagError):
    """A setting, `sources.yaml` or an argument is wrong. The text names it and says what to write instead."""


class StoreUnavailableError(RagError):
    """PostgreSQL, Milvus, Redis or the embedder cannot be reached or refuses to work, whatever it is given.

    Nothing was lost: run again when it is back.
    """


class LockLostError(StoreUnavailableError):
    """PostgreSQL ended the session that held a lock, so what the lock protects must not be written any more."""


class DataRefusedError(RagError):
    """A store that works refuses these rows because of the data in them, such as a value that is too long."""


class PrivilegeError(RagError):
    """The user of a store may not do something. The text says which privilege to grant."""


class BusyError(RagError):
    """Another process is working on the same thing. Run again when it has finished."""


class SourceError(RagError):
    """A source cannot be listed (its path is missing, access is denied, ...). Its documents stay as they are."""


class DocumentError(RagError):
    """A document cannot be read. It is quarantined with this reason and never stops a run."""


class VanishedError(DocumentError):
    """A document was removed after its source was scanned. It stays pending until a complete scan marks it as gone."""


class AnotherEmbedderError(RagError):
    """The index was made with another embedder of the same dimension. Raised before anything is searched or written."""


class DimensionMismatchError(RagError):
    """A vector does not have the dimension of its collection. Raised before anything is written."""

    def __init__(self, expected: int, got: int, what: str = "") -> None:
        suffix = f" ({what})" if what else ""
        super().__init__(f"Vector dimension mismatch: expected {expected}, got {got}{suffix}")


def one_line(error: BaseException, limit: int = 500) -> str:
    """Return the error's text on one line, at most `limit` characters, for a status column or a log line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
