"""Accounts of the pages, and who is signed in."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from processor.domain.access import Account, Reach, Role, check_account
from processor.errors import NotAllowed
from processor.store.tables import AccountInstance, AccountRow, SessionRow

ACCOUNTS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Session:
    """A person signed in with one browser."""

    account: Account
    begun_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class SessionLine:
    """A session that goes on, or could. token_digest: names it."""

    token_digest: bytes
    begun_at: datetime
    seen_at: datetime


_COLUMNS = """
    a.account_id, a.name, a.roles, a.sees_personal, a.sees_every_instance,
    a.password_hash IS NOT NULL AS is_local, a.disabled_at IS NOT NULL AS is_disabled,
    ARRAY(SELECT i.instance_id FROM account_instances i WHERE i.account_id = a.account_id) AS instance_ids"""


def _account(row: Any) -> Account:
    return Account(
        account_id=row.account_id,
        name=row.name,
        roles=frozenset(map(Role, row.roles)),
        reach=Reach(None if row.sees_every_instance else frozenset(row.instance_ids)),
        sees_personal=row.sees_personal,
        is_local=row.is_local,
        is_disabled=row.is_disabled,
    )


# -- Accounts --------------------------------------------------------------------------------------


def add(
    connection: Connection,
    name: str,
    roles: Collection[Role],
    *,
    reach: Reach,
    sees_personal: bool,
    password_hash: str | None,
    oidc_subject: str | None,
    now: datetime,
) -> UUID:
    """Make an account. Raises NotAllowed when there is one of that name or subject."""
    check_account(name, roles)
    with _unique(name):
        account_id: UUID = connection.execute(
            insert(AccountRow)
            .values(
                name=name,
                roles=sorted(roles),
                sees_personal=sees_personal,
                sees_every_instance=reach.instance_ids is None,
                password_hash=password_hash,
                password_changed_at=now if password_hash else None,
                oidc_subject=oidc_subject,
                created_at=now,
            )
            .returning(AccountRow.account_id)
        ).scalar_one()
    _set_reach(connection, account_id, reach)
    return account_id


def change(
    connection: Connection,
    account: Account,
    *,
    roles: Collection[Role],
    reach: Reach,
    sees_personal: bool,
    is_disabled: bool,
    now: datetime,
) -> None:
    """Give an account other rights from its next request on. Raises NotAllowed."""
    check_account(account.name, roles)
    connection.execute(
        update(AccountRow)
        .where(AccountRow.account_id == account.account_id)
        .values(
            roles=sorted(roles),
            sees_personal=sees_personal,
            sees_every_instance=reach.instance_ids is None,
            disabled_at=func.coalesce(AccountRow.disabled_at, now) if is_disabled else None,
        )
    )
    _set_reach(connection, account.account_id, reach)
    if is_disabled:
        end_sessions(connection, account.account_id, now)


def set_password(connection: Connection, account_id: UUID, password_hash: str, now: datetime) -> None:
    """Set a password, and end every session that began with the one before."""
    connection.execute(
        update(AccountRow)
        .where(AccountRow.account_id == account_id)
        .values(password_hash=password_hash, password_changed_at=now)
    )
    end_sessions(connection, account_id, now)


def set_hash(connection: Connection, account_id: UUID, old: str, new: str) -> None:
    """Keep the same password under a stronger hash, unless it was changed meanwhile."""
    connection.execute(
        update(AccountRow)
        .where(AccountRow.account_id == account_id, AccountRow.password_hash == old)
        .values(password_hash=new)
    )


def set_subject(connection: Connection, account: Account, oidc_subject: str | None) -> None:
    """Let an account sign in by OpenID Connect, or no more. Raises NotAllowed when another does by that subject."""
    with _unique(account.name):
        connection.execute(
            update(AccountRow)
            .where(AccountRow.account_id == account.account_id)
            .values(oidc_subject=oidc_subject)
        )


def named(connection: Connection, name: str) -> tuple[Account, str | None] | None:
    """The account of this name and its password's hash, None when there is none of that name."""
    row = connection.execute(
        text(f"SELECT {_COLUMNS}, a.password_hash FROM accounts a WHERE lower(a.name) = lower(:name)"),
        {"name": name},
    ).one_or_none()
    return None if row is None else (_account(row), row.password_hash)


def of_subject(connection: Connection, oidc_subject: str) -> Account | None:
    """The account that signs in by this issuer and subject, None when none does."""
    row = connection.execute(
        text(f"SELECT {_COLUMNS} FROM accounts a WHERE a.oidc_subject = :subject"), {"subject": oidc_subject}
    ).one_or_none()
    return None if row is None else _account(row)


def everybody(connection: Connection) -> list[Account]:
    """Every account, by name."""
    rows = connection.execute(
        text(f"SELECT {_COLUMNS} FROM accounts a ORDER BY lower(a.name) LIMIT :limit"),
        {"limit": ACCOUNTS_MAX},
    )
    return [_account(row) for row in rows]


def names_that(connection: Connection, roles: Collection[Role]) -> list[str]:
    """Names of those that have one of these roles and may sign in, by name."""
    return list(
        connection.scalars(
            select(AccountRow.name)
            .where(AccountRow.roles.overlap(sorted(roles)), AccountRow.disabled_at.is_(None))
            .order_by(func.lower(AccountRow.name))
            .limit(ACCOUNTS_MAX)
        )
    )


def _set_reach(connection: Connection, account_id: UUID, reach: Reach) -> None:
    connection.execute(delete(AccountInstance).where(AccountInstance.account_id == account_id))
    if reach.instance_ids:
        connection.execute(
            insert(AccountInstance),
            [
                {"account_id": account_id, "instance_id": instance_id}
                for instance_id in sorted(reach.instance_ids)
            ],
        )


@contextmanager
def _unique(name: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError as why:
        constraint = getattr(getattr(why.orig, "diag", None), "constraint_name", "")
        if constraint == "uq_accounts_name":
            raise NotAllowed(f"there is an account {name} already") from why
        if constraint == "uq_accounts_oidc_subject":
            raise NotAllowed("another account signs in by that subject") from why
        raise


# -- Sessions --------------------------------------------------------------------------------------


def begin_session(
    connection: Connection,
    account_id: UUID,
    token_digest: bytes,
    now: datetime,
    *,
    password_hash: str | None = None,
) -> bool:
    """Note that a person signed in. False when the account was disabled, or its password changed, meanwhile.

    password_hash: of the password that was given, None when the person signed in without one.
    """
    added = connection.execute(
        text("""
            INSERT INTO sessions (token_digest, account_id, begun_at, seen_at)
            SELECT :digest, a.account_id, :now, :now FROM accounts a
            WHERE a.account_id = :account_id AND a.disabled_at IS NULL
                AND (CAST(:password_hash AS text) IS NULL OR a.password_hash = :password_hash)
            FOR SHARE"""),
        {"digest": token_digest, "account_id": account_id, "now": now, "password_hash": password_hash},
    )
    return added.rowcount == 1


def session(
    connection: Connection, token_digest: bytes, *, begun_after: datetime, seen_after: datetime
) -> Session | None:
    """The session, None when there is none, it is over, or its account was disabled."""
    row = connection.execute(
        text(f"""
            SELECT {_COLUMNS}, s.begun_at, s.seen_at FROM sessions s JOIN accounts a USING (account_id)
            WHERE s.token_digest = :digest AND s.ended_at IS NULL AND s.begun_at > :begun AND s.seen_at > :seen
                AND a.disabled_at IS NULL"""),
        {"digest": token_digest, "begun": begun_after, "seen": seen_after},
    ).one_or_none()
    return None if row is None else Session(_account(row), row.begun_at, row.seen_at)


def touch_session(connection: Connection, token_digest: bytes, now: datetime) -> None:
    """Note a request of the session."""
    connection.execute(
        update(SessionRow)
        .where(SessionRow.token_digest == token_digest, SessionRow.seen_at < now)
        .values(seen_at=now)
    )


def end_session(connection: Connection, token_digest: bytes, now: datetime) -> None:
    """End one session, if it goes on."""
    _end(connection, now, SessionRow.token_digest == token_digest)


def end_sessions(
    connection: Connection, account_id: UUID, now: datetime, *, but: bytes | None = None
) -> None:
    """End every session of an account. but: the digest of one that stays."""
    _end(
        connection,
        now,
        SessionRow.account_id == account_id,
        *([SessionRow.token_digest != but] if but is not None else []),
    )


def _end(connection: Connection, now: datetime, *conditions: Any) -> None:
    # A clock set back must not keep anybody signed in.
    connection.execute(
        update(SessionRow)
        .where(*conditions, SessionRow.ended_at.is_(None))
        .values(ended_at=func.greatest(SessionRow.begun_at, now))
    )


def sessions(
    connection: Connection, account_id: UUID, *, begun_after: datetime, seen_after: datetime, limit: int = 100
) -> list[SessionLine]:
    """Sessions of an account that go on, the newest first."""
    row = SessionRow
    found = connection.execute(
        select(row.token_digest, row.begun_at, row.seen_at)
        .where(
            row.account_id == account_id,
            row.ended_at.is_(None),
            row.begun_at > begun_after,
            row.seen_at > seen_after,
        )
        .order_by(row.begun_at.desc())
        .limit(limit)
    )
    return [SessionLine(*line) for line in found]
