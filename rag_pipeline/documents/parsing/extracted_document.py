"""What the reader of one format extracts from a file. Plain data, nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExtractedDocument:
    """A document as its format states it, before `parser.parse` cleans it and fills the gaps."""

    markdown: str
    title: str | None = None
    author: str | None = None
    language: str | None = None
    language_is_certain: bool = False
    """Whether a person set the language for this document, rather than a template or a word processor."""
    category: str | None = None
    tags: tuple[str, ...] = ()
    stated_date: str | None = None
    """As it is written, if it can be read or not."""
    warnings: tuple[str, ...] = ()
