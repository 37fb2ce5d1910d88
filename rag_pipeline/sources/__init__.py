"""Connectors: what exists out there (scan), and its bytes (fetch).

Nothing here knows a document's format or a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_pipeline.sources.config import SourceConfig
    from rag_pipeline.sources.interface import Source


def connect(config: SourceConfig) -> Source:
    """The connector of a source. Opens nothing yet; errors come with the first scan or fetch."""
    from rag_pipeline.sources.filesystem import FilesystemSource

    connectors = {"filesystem": FilesystemSource}
    return connectors[config.type](config)
