"""The result of parsing: a document as Markdown, with its metadata. Plain data, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ParsedDocument:
    """A document as Markdown, with the metadata that it contains; None for what it does not state."""

    title: str
    """Never empty: the title in the metadata, else the first heading, else the file's name."""
    markdown: str
    """The content without front matter, in its author's characters: only line ends are normalised (to `\\n`), and
    only NULs, lone surrogates and byte order marks are removed. NFKC is for comparing texts."""
    author: str | None = None
    language: str | None = None
    """Two lower-case letters (ISO 639-1), stated by the document or its source, or else likely; None without letters."""
    category: str | None = None
    tags: tuple[str, ...] = ()
    stated_date: str | None = None
    """The date that the document gives itself, as it is written: it may be one that cannot be read."""
    warnings: tuple[str, ...] = field(default=())
    """What was lost or guessed, one line each, such as an encoding."""
