"""The errors that a person sees: one line each, naming the thing and saying what to do.

What belongs here: the base class and the kinds that callers tell apart. What does not: errors that only one
module raises and nobody catches by kind; those are plain `RagError`s.
"""

from __future__ import annotations


class RagError(Exception):
    """Something that a person can mend; its text is one line that says how. Shown without a traceback."""


class ConfigError(RagError):
    """A setting, `sources.yaml` or an argument is wrong."""


class StoreUnavailableError(RagError):
    """PostgreSQL, Milvus or Redis cannot be reached or refuses us; nothing was lost, try again later."""


class BusyError(RagError):
    """Somebody else is at work on the same thing; try again when they are done."""


class SourceError(RagError):
    """A source cannot be listed (its path is missing, access is denied, ...); its documents stay as they are."""


class DocumentError(RagError):
    """One document cannot be read; it is set aside with this reason and never stops a run."""


class DimensionMismatchError(RagError):
    """A vector has not the collection's dimension; raised before anything is written."""

    def __init__(self, expected: int, got: int, what: str = "") -> None:
        self.expected = expected
        self.got = got
        suffix = f" ({what})" if what else ""
        super().__init__(f"Vector dimension mismatch: expected {expected}, got {got}{suffix}")


def one_line(error: BaseException, limit: int = 500) -> str:
    """The error's text on one line, at most `limit` characters, for a status column or a log line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
