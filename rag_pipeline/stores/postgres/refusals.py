"""What to do about a PostgreSQL that runs and refuses to work, by its SQLSTATE: the same words whoever asks it, this
package by psycopg or Dagster by psycopg2.
"""

from __future__ import annotations

_WHAT_TO_DO = {
    "25006": "make it writable for this user",
    "42501": "make it writable for this user",
    "53100": "free space on its disk",
    "53200": "give it more memory, or stop what else uses it",
    "53300": "end other connections to it, or raise its max_connections",
}
_SHORT_OF_SOMETHING = "53"
"""The class of SQLSTATE of a server that lacks something."""
_WHILE_CONNECTING = {
    "too many clients": "53300",
    "too many connections": "53300",
    "connection slots are reserved": "53300",
}
"""An error while connecting has no SQLSTATE, in neither driver: only words."""


def what_to_do(sqlstate: str | None, said: str) -> str | None:
    """Return what to do before running again, by an error's SQLSTATE and text; None if it is no refusal."""
    state = sqlstate or next((state for words, state in _WHILE_CONNECTING.items() if words in said), "")
    return _WHAT_TO_DO.get(state, "give it what it lacks" if state.startswith(_SHORT_OF_SOMETHING) else None)
