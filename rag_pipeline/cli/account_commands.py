"""`users` and `keys`: accounts and API keys of the search service."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import click

from rag_pipeline.accounts.permissions import ROLES
from rag_pipeline.cli.common import (
    DateType,
    json_option,
    local_time,
    open_pipeline,
    print_json,
    print_line,
    print_status,
)
from rag_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from rag_pipeline.stores.postgres.database import Database

_permission_option = click.option(
    "--permission", "permissions", metavar="P", multiple=True, help="A permission such as hr; repeatable."
)
_name_option = click.option("--name", metavar="FULL_NAME", help="The name that pages show.")
_timezone_option = click.option("--timezone", metavar="ZONE", help="The time zone of dates, such as Asia/Tokyo.")
_avatar_option = click.option("--avatar", metavar="URL", help="The https address of a picture.")


@click.group()
def users() -> None:
    """Who may use the search service."""


@users.command("add")
@click.argument("email")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True)
@_permission_option
@_name_option
@_timezone_option
@_avatar_option
def add_user(
    email: str,
    role: str,
    permissions: tuple[str, ...],
    name: str | None,
    timezone: str | None,
    avatar: str | None,
) -> None:
    """Add a user. The password comes from a prompt, or is a line of standard input."""
    from rag_pipeline.accounts import profiles
    from rag_pipeline.accounts import users as accounts

    profile = profiles.checked(name, timezone, avatar)
    with _database() as database:
        accounts.add(database, email, _password(), role=role, own=permissions, profile=profile)
    print_status(f"added {email} as {role}")


@users.command()
@click.argument("email")
@json_option
@click.option("--role", type=click.Choice(ROLES), help="Of a new account.  [default: viewer]")
@_permission_option
@_name_option
def invite(email: str, as_json: bool, role: str | None, permissions: tuple[str, ...], name: str | None) -> None:
    """Print a link with which a user chooses the password; adds the user if there is none."""
    from rag_pipeline.accounts import profiles
    from rag_pipeline.service import invitations

    profile = profiles.checked(name)
    with open_pipeline() as pipeline:
        pipeline.prepare()
        made = invitations.invite(pipeline, email, role=role, own=permissions, profile=profile)
    if as_json:
        print_json(made.as_json())
        return
    print_line(made.link)
    print_status(
        f"whoever opens this link chooses the password of {made.email}: it works once, until "
        f"{local_time(made.expires_at)}, and is shown only now"
    )


@users.command("set-profile")
@click.argument("email")
@_name_option
@_timezone_option
@_avatar_option
def set_profile(email: str, name: str | None, timezone: str | None, avatar: str | None) -> None:
    """Change how a user is shown. An empty value removes what is there."""
    from rag_pipeline.accounts import profiles
    from rag_pipeline.accounts import users as accounts

    profile = profiles.checked(name, timezone, avatar)
    with _database() as database:
        accounts.set_profile(database, email, profile)
    print_status(f"changed the profile of {email}")


@users.command("list")
@json_option
def list_users(as_json: bool) -> None:
    """List the users."""
    from rag_pipeline.stores.postgres import users as table

    rows = _rows(table.all_users)
    if as_json:
        print_json({"users": rows})
        return
    for row in rows:
        verified = "verified" if row["is_verified"] else "unverified"
        permissions = ", ".join(row["permissions"])
        print_line(
            f"{row['email']:<40} {row['role']:<12} {_user_state(row):<12} {verified:<11} {permissions:<16} "
            f"{row['full_name'] or ''}".rstrip()
        )
    if not rows:
        print_line("no users yet: `rag-pipeline users add EMAIL`")


@users.command("set-role")
@click.argument("email")
@click.argument("role", type=click.Choice(ROLES))
def set_role(email: str, role: str) -> None:
    """Give a user another role, at once for all keys."""
    from rag_pipeline.accounts import users as accounts

    with _database() as database:
        accounts.set_role(database, email, role)
    print_status(f"{email} is {role}")


@users.command("set-permissions")
@click.argument("email")
@_permission_option
def set_permissions(email: str, permissions: tuple[str, ...]) -> None:
    """Give a user these permissions besides those of the role, in place of others; without any, none.

    Keys have no more than their user: it holds for them at once.
    """
    from rag_pipeline.accounts import users as accounts

    with _database() as database:
        has = accounts.set_permissions(database, email, permissions)
    print_status(f"{email} has the permissions {', '.join(sorted(has))}")


@users.command("set-password")
@click.argument("email")
def set_password(email: str) -> None:
    """Change a user's password: from a prompt, or a line of standard input."""
    from rag_pipeline.accounts import users as accounts

    with _database() as database:
        accounts.set_password(database, email, _password())
    print_status(f"changed the password of {email}")


@users.command()
@click.argument("email")
def deactivate(email: str) -> None:
    """Close an account: its sessions end and its keys are revoked, at once and for good.

    `users unlock` opens the account again, without them.
    """
    from rag_pipeline.accounts import users as accounts

    with _database() as database:
        revoked = accounts.deactivate(database, email)
    print_status(
        f"deactivated {email}: its sessions have ended, revoked keys: {revoked}; "
        f"`rag-pipeline users unlock {email}` opens the account again"
    )


@users.command()
@click.argument("email")
def unlock(email: str) -> None:
    """Open an account: unlock one after wrong passwords, or reactivate one that was deactivated.

    The sessions and keys that ended with a deactivation do not come back.
    """
    from rag_pipeline.accounts import users as accounts

    with _database() as database:
        opened = accounts.unlock(database, email)
    print_status(f"{email} was {opened}" if opened == "open already" else f"{opened} {email}")


@users.command()
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete(email: str, yes: bool) -> None:
    """Delete an account for good: its sessions end, its keys and judgements are deleted with it."""
    from rag_pipeline.accounts import users as accounts

    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                f"this deletes the account {email}, with its keys and judgements: add --yes to confirm"
            )
        if not click.confirm(f"Delete the account {email}, with its keys and judgements?", err=True):
            raise ConfigError("nothing was deleted")
    with _database() as database:
        deleted = accounts.delete(database, email)
    print_status(f"deleted {email}, keys: {deleted.keys}, judgements: {deleted.judgements}")


@click.group()
def keys() -> None:
    """API keys of the search service."""


@keys.command("create")
@click.argument("name")
@json_option
@click.option("--user", "email", metavar="EMAIL", required=True, help="Whose key it is.")
@_permission_option
@click.option(
    "--rate", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Requests a minute."
)
@click.option("--expires", type=DateType(last=True), help="The last day (UTC) on which it works.")
@click.option("--description", help="What it is for.")
def create_key(
    name: str,
    as_json: bool,
    email: str,
    permissions: tuple[str, ...],
    rate: int,
    expires: date | None,
    description: str | None,
) -> None:
    """Create a key, which is shown once. Without --permission it may search; with '*' all that its user may."""
    from rag_pipeline.accounts import api_keys

    with _database() as database:
        made = api_keys.create(
            database,
            name,
            email,
            wanted=permissions,
            rate=rate,
            expires_at=_end_of(expires),
            description=description,
        )
    if as_json:
        print_json(made.as_json())
        return
    print_line(made.key)
    print_status(f"this key of {email} is shown only now; `rag-pipeline keys revoke {made.prefix}` ends it")


@keys.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the keys, newest first."""
    from rag_pipeline.stores.postgres import api_keys as table

    rows = _rows(table.all_keys)
    if as_json:
        print_json({"keys": rows})
        return
    for row in rows:
        used = f"used {row['usage_count'] or 0} times" + (
            f", last {local_time(row['last_used_at'])}" if row["last_used_at"] else ""
        )
        print_line(
            f"{row['prefix']:<13} {_key_state(row):<39} {row['rate_limit_per_minute']:>5} a minute  {used}  "
            f"{row['email']}  {row['name']}  ({', '.join(row['permissions'])})"
        )
    if not rows:
        print_line("no keys yet: `rag-pipeline keys create NAME --user EMAIL`")


@keys.command()
@click.argument("prefix")
def revoke(prefix: str) -> None:
    """End a key, by its prefix or id, at once."""
    from rag_pipeline.accounts import api_keys

    with _database() as database:
        count = api_keys.revoke(database, prefix)
    if not count:
        raise ConfigError(f"no active key {prefix}: `rag-pipeline keys list` shows them")
    print_status(f"revoked {prefix}")


def _key_state(row: dict[str, Any]) -> str:
    if not row["is_active"]:
        return "revoked"
    if row["expires_at"] is None:
        return "active"
    return f"{'expired' if row['expires_at'] <= datetime.now(UTC) else 'active until'} {local_time(row['expires_at'])}"


def _user_state(row: dict[str, Any]) -> str:
    if not row["is_active"]:
        return "deactivated"
    until = row["locked_until"]
    return f"locked until {local_time(until)}" if until and until > datetime.now(UTC) else "active"


@contextmanager
def _database() -> Iterator[Database]:
    """Lend the database, with its schema up to date."""
    with open_pipeline() as pipeline:
        pipeline.prepare()
        yield pipeline.stores.database


def _rows(read: Any) -> list[dict[str, Any]]:
    with _database() as database, database.connection() as connection:
        rows: list[dict[str, Any]] = read(connection)
    return rows


def _end_of(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day + timedelta(days=1), time(), UTC)


def _password() -> str:
    """Ask for a password, or read a line of standard input that is not a terminal."""
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    return sys.stdin.readline().rstrip("\r\n")
