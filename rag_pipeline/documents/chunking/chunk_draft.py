"""The result of chunking: a chunk before it is stored. Plain data, nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChunkDraft:
    """A chunk before it is stored."""

    content: str
    """What a reader sees. The heading line is in the chunk that opens its section."""
    chunk_type: str
    """text, code, table, list, or heading (a section without text before its subsections)."""
    position: int
    """0, 1, 2, ... in reading order."""
    section_title: str | None
    hierarchy_level: int
    """1 for text outside any section or in a top-level section, 2 in a section inside that, ..."""
    parent: int | None
    """Position of the parent chunk. For a chunk that opens a section, the chunk that opens the enclosing section;
    for any other chunk, the chunk that opens its own section. None for the opening chunk of a top-level section
    and for text outside any section."""
    token_count: int
    """Tokens of the content: the sum of those of its blocks."""
    char_count: int
    """Characters of the content."""
    embedding_text: str
    """What is embedded: a line that names the document and the headings above, and the content."""
    content_hash: str
    """SHA-256 in hex of `chunk_type`, a NUL, and `embedding_text`: chunks with equal hashes share vectors."""
