"""Where processes that run for long write what they have to say."""

from __future__ import annotations

import logging


def log_to_stderr() -> None:
    """Have warnings and logins on standard error, a line each with its time."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("rag_pipeline.audit").setLevel(logging.INFO)
