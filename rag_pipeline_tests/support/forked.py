"""Something done in a forked child."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_forked_child(work: Callable[[], int]) -> int:
    """Return what it returns there, which the child has as its exit code; 0 if it fails."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(work())
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
