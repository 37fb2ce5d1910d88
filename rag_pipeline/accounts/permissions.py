"""Permissions: what the roles include, and which sources somebody with some permissions may see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from rag_pipeline.errors import ConfigError
from rag_pipeline.sources.naming import is_permission

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from uuid import UUID

Role = Literal["viewer", "editor", "admin", "super_admin"]
ROLES: tuple[Role, ...] = get_args(Role)

SEARCH = "search"
"""Search and read documents."""
JUDGE = "judge"
"""Say on the search page which documents answer a query: evaluations are made of it."""
METRICS = "metrics"
"""Read the service's metrics, which tell how much is asked of everybody's documents."""
EVERYTHING = "*"
"""Every permission, those that sources ask for included. Of a role; in a key, all that its user has."""

OF_ROLE: Mapping[str, frozenset[str]] = {
    "viewer": frozenset({SEARCH}),
    "editor": frozenset({SEARCH, JUDGE}),
    "admin": frozenset({SEARCH, JUDGE, METRICS}),
    "super_admin": frozenset({EVERYTHING}),
}
"""The permissions that each role has; a user's own come on top."""


def checked(permission: str) -> str:
    """Return a permission's name. Raises `ConfigError` if none can be called so."""
    if not is_permission(permission):
        raise ConfigError(
            f"{permission!r} is not a permission: use up to 63 lower-case letters, digits, _, ., : and -, such as hr"
        )
    return permission


def of_user(role: str, own: Collection[str]) -> frozenset[str]:
    """Return what a user may do: what the role includes, and the user's own permissions."""
    return OF_ROLE.get(role, frozenset()) | frozenset(own)


def of_key(key: Collection[str], user: Collection[str]) -> frozenset[str]:
    """Return what a key may do: what it was given, as far as its user still may."""
    if EVERYTHING in key:
        return frozenset(user)
    return frozenset(permission for permission in key if allows(user, permission))


def allows(held: Collection[str], permission: str) -> bool:
    """Whether somebody with these permissions has this one."""
    return permission in held or EVERYTHING in held


def visible_sources(held: Collection[str], access: Mapping[UUID, Collection[str]]) -> list[UUID] | None:
    """Return the sources whose documents may be found, in order; None if those are all.

    `access` has the permissions that each source asks for: all of them are needed.
    """
    visible = sorted(source for source, needed in access.items() if all(allows(held, one) for one in needed))
    return None if len(visible) == len(access) else visible
