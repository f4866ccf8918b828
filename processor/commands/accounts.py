"""`processor accounts`: who may sign in to the pages, and what they may do there."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from processor.commands.common import Impossible, echo_json, echo_table, json_option, open_services
from processor.domain.access import Account, Reach, Role, check_password

if TYPE_CHECKING:
    from sqlalchemy import Connection

_role_option = click.option(
    "--role",
    "roles",
    type=click.Choice([str(role) for role in Role]),
    multiple=True,
    help="What the person may do; more than once for several.",
)
_instances_option = click.option(
    "--instance",
    "instance_ids",
    type=click.UUID,
    multiple=True,
    help="Sees this app instance; more than once.",
)
_password_option = click.option(
    "--password-file",
    type=click.File(),
    help="Read the password from this file, - for standard input, instead of asking for it.",
)


@click.group("accounts")
def accounts() -> None:
    """Who may sign in to the pages, and what they may do."""


@accounts.command("list")
@json_option
def list_accounts(as_json: bool) -> None:
    """List every account."""
    from processor.store import accounts as store

    services = open_services()
    with services.database.begin() as connection:
        found = store.everybody(connection)
    rows = [_described(one) for one in found]
    if as_json:
        echo_json(rows)
        return
    echo_table(
        ("name", "roles", "instances", "personal data", "signs in"),
        [
            (
                one["name"],
                ", ".join(one["roles"]),
                "every one" if one["instances"] is None else "\n".join(one["instances"]) or "none",
                "may unmask" if one["sees_personal"] else "masked",
                "no: disabled"
                if one["is_disabled"]
                else "with a password"
                if one["has_password"]
                else "by OpenID Connect",
            )
            for one in rows
        ],
        nothing="no account: `processor accounts add` makes one",
    )


@accounts.command("add")
@click.argument("name")
@_role_option
@_instances_option
@click.option("--every-instance", is_flag=True, help="Sees every app instance, of today and tomorrow.")
@click.option("--personal", is_flag=True, help="May unmask personal data, which is recorded.")
@click.option("--oidc-subject", help="Signs in by OpenID Connect: the issuer, a blank, and the subject.")
@click.option("--no-password", is_flag=True, help="Has no password; only with --oidc-subject.")
@_password_option
def add(
    name: str,
    roles: Collection[str],
    instance_ids: Collection[UUID],
    every_instance: bool,
    personal: bool,
    oidc_subject: str | None,
    no_password: bool,
    password_file: Any,
) -> None:
    """Make an account for a person, who acts as NAME."""
    from processor.store import accounts as store

    services = open_services()
    if no_password and not oidc_subject:
        raise Impossible("an account without a password signs in by --oidc-subject: name one")
    given = None if no_password else _password(name, password_file)
    with services.database.begin() as connection:
        store.add(
            connection,
            name,
            frozenset(map(Role, roles)),
            reach=_reach(instance_ids, every_instance),
            sees_personal=personal,
            password_hash=given and _hashed(given),
            oidc_subject=oidc_subject,
            now=services.now(),
        )
    click.echo(f"{name} may sign in now")


@accounts.command("change")
@click.argument("name")
@_role_option
@_instances_option
@click.option("--every-instance", is_flag=True, help="Sees every app instance, of today and tomorrow.")
@click.option("--personal/--no-personal", default=None, help="Whether personal data may be unmasked.")
@click.option("--disable/--enable", default=None, help="Whether the person may sign in.")
@click.option("--oidc-subject", help="Signs in by OpenID Connect from now on; empty: no more.")
def change(
    name: str,
    roles: Collection[str],
    instance_ids: Collection[UUID],
    every_instance: bool,
    personal: bool | None,
    disable: bool | None,
    oidc_subject: str | None,
) -> None:
    """Change what an account may do, from its next request on. What is not named stays."""
    from processor.store import accounts as store

    services = open_services()
    with services.database.begin() as connection:
        found = _found(connection, name)
        store.change(
            connection,
            found,
            roles=frozenset(map(Role, roles)) or found.roles,
            reach=_reach(instance_ids, every_instance) if instance_ids or every_instance else found.reach,
            sees_personal=found.sees_personal if personal is None else personal,
            is_disabled=found.is_disabled if disable is None else disable,
            now=services.now(),
        )
        if oidc_subject is not None:
            store.set_subject(connection, found, oidc_subject or None)
        found = _found(connection, name)
    click.echo(
        f"{found.name}: {', '.join(sorted(found.roles))}{'; may not sign in' if found.is_disabled else ''}"
    )


@accounts.command("password")
@click.argument("name")
@_password_option
def password(name: str, password_file: Any) -> None:
    """Set the password of an account, and end its sessions."""
    from processor.store import accounts as store

    services = open_services()
    with services.database.begin() as connection:
        found = _found(connection, name)
    given = _password(found.name, password_file)
    with services.database.begin() as connection:
        store.set_password(connection, found.account_id, _hashed(given), services.now())
    click.echo(f"the password of {found.name} is set; every session was ended")


@accounts.command("sign-out")
@click.argument("name")
def sign_out(name: str) -> None:
    """End every session of an account."""
    from processor.store import accounts as store

    services = open_services()
    with services.database.begin() as connection:
        found = _found(connection, name)
        store.end_sessions(connection, found.account_id, services.now())
    click.echo(f"every session of {found.name} was ended")


def _found(connection: Connection, name: str) -> Account:
    from processor.store import accounts as store

    found = store.named(connection, name)
    if found is None:
        raise Impossible(f"there is no account {name}: `processor accounts list` shows what there is")
    return found[0]


def _reach(instance_ids: Collection[UUID], every_instance: bool) -> Reach:
    if every_instance and instance_ids:
        raise Impossible("choose --every-instance, or --instance once or more")
    if not every_instance and not instance_ids:
        raise Impossible("say what the person sees: --every-instance, or --instance once or more")
    return Reach(None if every_instance else frozenset(instance_ids))


def _password(name: str, file: Any) -> str:
    given: str = (
        file.readline().rstrip("\r\n")
        if file is not None
        else click.prompt("Password", hide_input=True, confirmation_prompt="Once more")
    )
    check_password(given, name)
    return given


def _hashed(given: str) -> str:
    from argon2 import PasswordHasher

    return PasswordHasher().hash(given)


def _described(one: Account) -> dict[str, Any]:
    ids = one.reach.instance_ids
    return {
        "name": one.name,
        "roles": sorted(one.roles),
        "instances": None if ids is None else sorted(map(str, ids)),
        "sees_personal": one.sees_personal,
        "has_password": one.is_local,
        "is_disabled": one.is_disabled,
    }
