"""How long `rag-pipeline dev` waits before it starts something again that has ended."""

from __future__ import annotations

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_HEALTHY_SECONDS = 60.0


class RestartPauses:
    """1 s, or 2, 4, 8, … up to 60 s for what does not live for a minute."""

    def __init__(self) -> None:
        self._pause = _FIRST_PAUSE

    def after(self, lived: float) -> float:
        """Return the seconds to wait now that it has ended, having lived for so many."""
        self._pause = _FIRST_PAUSE if was_healthy(lived) else min(2 * self._pause, _LONGEST_PAUSE)
        return self._pause


def was_healthy(lived: float) -> bool:
    """Whether something that has ended had worked before, by the seconds that it lived."""
    return lived > _HEALTHY_SECONDS
