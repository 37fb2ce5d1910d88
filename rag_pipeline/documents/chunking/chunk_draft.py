"""What chunking gives: a chunk before it has a row. Plain data, nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChunkDraft:
    """A chunk before it has a row."""

    content: str
    """What a reader is shown; a heading line stands in the chunk that opens its section."""
    chunk_type: str
    """text, code, table, list, or heading (a section that has no text of its own before its sub-sections)."""
    position: int
    """0, 1, 2, ... in reading order."""
    section_title: str | None
    hierarchy_level: int
    """1 for text outside any section or in a top-level one, 2 in a section inside that, ..."""
    parent: int | None
    """Position of the chunk that opens the enclosing section: for a chunk that opens a section, the opening
    chunk of the section around it; for any other chunk, the opening chunk of its own section. None in a top-level
    section's opening chunk and for text outside any section."""
    token_count: int
    """Of the content: the sum of its blocks' tokens."""
    char_count: int
    """Of the content."""
    embedding_text: str
    """What is embedded: the content, with its section's title before it where the content lacks it."""
    content_hash: str
    """SHA-256 in hex of `chunk_type`, a NUL, and `embedding_text`: chunks with equal hashes share vectors."""
