"""Connectors: list the items of a source (scan) and read their bytes (fetch). Not here: formats and stores.

`interface` is what a connector implements, `config` reads `sources.yaml`, `filesystem` is the connector for files,
over the trees `local_tree` and `remote_tree` (both implement `tree.Tree`).

To add a kind of source: write a module with a class that implements `interface.Source`, add its name to
`config.SourceType` and its class to `_CONNECTORS` below.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_pipeline.sources.config import SourceConfig, SourceType
    from rag_pipeline.sources.interface import Source

_CONNECTORS: dict[SourceType, str] = {"filesystem": "rag_pipeline.sources.filesystem:FilesystemSource"}
"""By type of source, the class to import when one is connected."""


def connect(config: SourceConfig) -> Source:
    """Return the connector of a source. Nothing is opened yet; errors come with the first scan or fetch."""
    connector: Callable[[SourceConfig], Source] = pkgutil.resolve_name(_CONNECTORS[config.type])
    return connector(config)
