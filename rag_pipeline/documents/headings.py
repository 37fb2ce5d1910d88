"""The line in front of what is embedded, `document › chapter › section`, and the headings that it tells of a chunk."""

from __future__ import annotations

from collections.abc import Sequence

SEPARATOR = " › "
MAX_CONTEXT = 200
"""Characters of the line. A longer one was cut, and ends in an ellipsis."""
_NEARLY = 10
"""White space before the ellipsis is not part of the line."""


def section_path(context: str, title: str, section_title: str | None) -> list[str]:
    """Return the headings above a chunk and its own, from the outermost on; [] outside any section.

    The document's title is left out, also where a heading repeats it. Of headings that do not fit into the line, the
    chunk's own remains whole.
    """
    path = _headings(context, title)
    if path and context.endswith("…") and len(context) > MAX_CONTEXT - _NEARLY:
        cut = path.pop()
        if section_title is None or not section_title.startswith(cut[:-1]):
            path.append(cut)
    if section_title and section_title not in (path or [title])[-1:]:
        path.append(section_title)
    return path


def shown(path: Sequence[str]) -> str:
    """Return a path as people read it."""
    return SEPARATOR.join(path)


def _headings(context: str, title: str) -> list[str]:
    if context.startswith(title + SEPARATOR):
        return context[len(title) + len(SEPARATOR) :].split(SEPARATOR)
    if title.startswith(context.removesuffix("…")):
        return []  # There is no line, or the title alone fills it.
    # A document that was renamed has the old title there until its next version is live.
    return context.split(SEPARATOR)[1:]
