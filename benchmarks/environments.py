"""Environments of their own for the peers and the profiler, under .peers: the project does not depend on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ENVIRONMENTS = Path(".peers")
_REQUIREMENTS = {
    "cocoindex": ["cocoindex[postgres]>=1.0,<2", "numpy"],
    "haystack": ["haystack-ai>=3,<4", "milvus-haystack>=0.1,<0.2", "numpy"],
    "py-spy": ["py-spy>=0.4,<0.5"],
}


def environment_of(tool: str) -> Path:
    """Return the Python of a tool's own environment, made on first use."""
    folder = _ENVIRONMENTS / tool
    python = folder / "bin" / "python"
    ready = folder / ".installed"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_REQUIREMENTS[tool]],
            check=True,
        )
        ready.touch()
    return python.absolute()
