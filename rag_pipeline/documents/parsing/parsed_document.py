"""What parsing gives: a document as Markdown, with what it says of itself. Plain data, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class ParsedDocument:
    """A document as Markdown, and what it says of itself; None where it says nothing."""

    title: str
    """Never empty: the front matter's or the file's own title, else the first heading, else the file's name."""
    markdown: str
    """The content as Markdown, without front matter, in its author's characters: nothing is normalised but line
    ends (`\\n`), only NULs, lone surrogates and byte order marks are removed. NFKC is for comparing texts."""
    created_at: datetime | None = None
    """Aware, UTC."""
    author: str | None = None
    language: str | None = None
    """Two lower-case letters (ISO 639-1), given by the document or detected."""
    category: str | None = None
    tags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    """What was lost or guessed, one line each, such as an encoding."""
