"""Who may do what on the pages: roles, permissions, and the instances a person may see."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from processor.domain.discrepancy import check_person
from processor.errors import NotAllowed

PASSWORD_MIN = 12  # letters; as NIST SP 800-63B-4 and OWASP's ASVS 5 ask of a single factor
PASSWORD_MAX = 256  # Argon2 takes any length, a request should not


class Role(StrEnum):
    """What a person is to the books. A person may have several."""

    AUDITOR = "auditor"
    CLERK = "clerk"
    APPROVER = "approver"
    OPERATOR = "operator"


class Permission(StrEnum):
    """What a page asks of who opens it."""

    READ = "read"  # everything but personal data
    WORK = "work"  # on discrepancies: investigate, comment, assign, resolve, propose
    APPROVE = "approve"  # what another person proposed
    LINKS = "links"  # create, send, initiate, activate and so on, at Wix
    OPERATE = "operate"  # jobs, replays, sweeps and backfills


PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.AUDITOR: frozenset({Permission.READ}),
    Role.CLERK: frozenset({Permission.READ, Permission.WORK, Permission.LINKS}),
    Role.APPROVER: frozenset({Permission.READ, Permission.WORK, Permission.APPROVE}),
    Role.OPERATOR: frozenset({Permission.READ, Permission.LINKS, Permission.OPERATE}),
}
"""What each role may do. An auditor changes nothing, and has no other role beside it."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The app instances a person may see. instance_ids: None for every one, of today and tomorrow."""

    instance_ids: frozenset[UUID] | None

    def holds(self, instance_id: UUID) -> bool:
        """Whether this instance is among them."""
        return self.instance_ids is None or instance_id in self.instance_ids


EVERYWHERE = Reach(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A person who may sign in. name: also the actor of what the person decides.

    sees_personal: whether personal data may be unmasked. is_local: it has a password; without one it signs in by
    OpenID Connect alone.
    """

    account_id: UUID
    name: str
    roles: frozenset[Role]
    reach: Reach
    sees_personal: bool
    is_local: bool
    is_disabled: bool

    def may(self, permission: Permission) -> bool:
        """Whether one of the roles has this permission."""
        return not self.is_disabled and any(permission in PERMISSIONS[role] for role in self.roles)


def check_account(name: str, roles: Collection[Role]) -> None:
    """Raises NotAllowed unless an account may be so."""
    check_person(name)
    if not roles:
        raise NotAllowed(f"an account has at least one role: {', '.join(Role)}")
    if Role.AUDITOR in roles and len(set(roles)) > 1:
        raise NotAllowed("an auditor changes nothing, so has no other role")


def check_password(password: str, name: str) -> None:
    """Raises NotAllowed for a password that is too short, too long or the name."""
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        raise NotAllowed(f"a password has {PASSWORD_MIN} to {PASSWORD_MAX} letters")
    if "\0" in password:
        raise NotAllowed("a password has no zero byte")
    if len(password.casefold().replace(name.casefold(), "")) < 8:
        raise NotAllowed("a password is not the name with a few letters more")
    if len(set(password)) < 5:
        raise NotAllowed("a password has at least five different letters")
