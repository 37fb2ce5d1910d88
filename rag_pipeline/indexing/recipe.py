"""The recipe of a document: everything but its bytes that decides what it becomes.

Stored with each item; where it differs from the one an item was ingested with, the item is pending again.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_pipeline.settings import Settings
    from rag_pipeline.sources.config import SourceConfig


def recipe(source: SourceConfig, settings: Settings) -> str:
    """A digest of the source's own metadata, the versions of parser, chunker and words, and the chunk size."""
    from rag_pipeline.documents.chunking.chunker import CHUNKER_VERSION
    from rag_pipeline.documents.parsing.parser import PARSER_VERSION
    from rag_pipeline.language.words import WORDS_VERSION

    parts = [source.metadata_digest, PARSER_VERSION, CHUNKER_VERSION, WORDS_VERSION, settings.chunk_tokens]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
