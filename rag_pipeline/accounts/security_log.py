"""The security log: who did what to accounts and keys, and from which address; never a password or a key.

It is what goes to the logger `rag_pipeline.audit`. The service says for each request which address it comes from.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

asking_address: ContextVar[str | None] = ContextVar("asking_address", default=None)
"""Where the present request comes from; None outside the service."""


def _with_address(record: logging.LogRecord) -> bool:
    """Add the address to a line: what is done with accounts need not know of requests."""
    address = asking_address.get()
    if address is not None:
        record.msg, record.args = f"{record.getMessage()}, from {address}", ()
    return True


logging.getLogger("rag_pipeline.audit").addFilter(_with_address)
