"""The pretend Wix's fault switches: what goes wrong, for whom, and how often. FAULTS describes each."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never
from uuid import uuid4

from processor.sandbox.documents import Document, Documents
from processor.sandbox.errors import Violation, invalid, not_found

Group = Literal["delivery", "token", "shape", "stray", "call", "read"]
"""delivery, token, shape and stray strike an event, one of each group but any number of shapes; call strikes
a REST call; read stays on while it is switched on and is not used up."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. parameters: by name, whether it is required."""

    group: Group
    summary: str
    parameters: dict[str, bool]


FAULTS: dict[str, Fault] = {
    "drop": Fault("delivery", "the event is never delivered", {}),
    "duplicate": Fault(
        "delivery", "the event is delivered `copies` (2) times, all at once", {"copies": False}
    ),
    "reorder": Fault(
        "delivery",
        "the event waits until a later one of its instance was delivered, with `sameEntity` of its payment or link",
        {"sameEntity": False},
    ),
    "delay": Fault("delivery", "the event is delivered that much later", {"seconds": True}),
    "expired_token": Fault(
        "token",
        "the token expired `seconds` (a week) ago, in the first `attempts` (all) deliveries",
        {"seconds": False, "attempts": False},
    ),
    "wrong_key": Fault(
        "token",
        "the token is signed with another key, in the first `attempts` (all) deliveries",
        {"attempts": False},
    ),
    "resigned": Fault("token", "every resend is signed anew", {}),
    "missing_identity": Fault("shape", "the envelope has no `identity`", {}),
    "entity_as_json": Fault("shape", "`createdEvent.entityAsJson`, as text, instead of `entity`", {}),
    "created_current_entity": Fault(
        "shape", "`createdEvent.currentEntity` instead of `updatedEvent.currentEntity`", {}
    ),
    "currency_code": Fault("shape", "`currencyCode` instead of `currency`", {}),
    "missing_sequence": Fault("shape", "no `entityEventSequence`", {}),
    "test_event": Fault(
        "stray", "a test of the dashboard comes as well: well signed, about an instance nobody knows", {}
    ),
    "unknown_event": Fault("stray", "an event of an unknown type comes as well", {}),
    "status": Fault(
        "call",
        "the call is answered with that status, and with `Retry-After` if wanted",
        {"status": True, "retryAfterSeconds": False},
    ),
    "hang": Fault("call", "the call is carried out and answered only then", {"seconds": True}),
    "slow": Fault(
        "call", "the call is carried out; the answer's body drips in over that time", {"seconds": True}
    ),
    "truncated": Fault("call", "the call is carried out; the answer ends in the middle", {}),
    "expired_cursor": Fault(
        "call", "a call for a further page is answered 400: the cursor is no longer known", {}
    ),
    "revoked_token": Fault("call", "the access token is no longer good: 401 for it from now on", {}),
    "read_lag": Fault("read", "queries show what is new or changed only after that time", {"seconds": True}),
    "wrong_total": Fault(
        "read", "the link's `totalReceived.amount` is off by that amount", {"linkId": True, "by": True}
    ),
    "amount_edited": Fault(
        "read", "queries show another amount than the webhook told", {"paymentId": True, "amount": True}
    ),
    "payment_deleted": Fault("read", "queries no longer show the payment", {"paymentId": True}),
    "link_deleted": Fault("read", "the link is not found and queries no longer show it", {"linkId": True}),
}

_LIMITS: dict[Group, tuple[str, ...]] = {
    **dict.fromkeys(("delivery", "token", "shape", "stray"), ("instanceId", "eventType", "paymentLinkId")),
    "call": ("instanceId", "path"),
    "read": (),
}
"""To what a fault can be limited. eventType: an ending; path: a part of it, or with "=" before it the whole."""

# A mix is weather, not sabotage: every event still arrives or is found by a query, and every call gets through.
MIX: tuple[dict[str, Any], ...] = (
    {"kind": "drop"},
    {"kind": "duplicate"},
    {"kind": "reorder"},
    {"kind": "delay", "seconds": 2.0},
    {"kind": "wrong_key", "attempts": 1},
    {"kind": "resigned"},
    {"kind": "missing_identity"},
    {"kind": "entity_as_json"},
    {"kind": "currency_code"},
    {"kind": "missing_sequence"},
    {"kind": "test_event"},
    {"kind": "unknown_event"},
    {"kind": "status", "status": 503},
    {"kind": "status", "status": 429},
    {"kind": "truncated"},
    {"kind": "expired_cursor"},
    {"kind": "revoked_token"},
)

_AMOUNT = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,3})?")
_WAIT_MAX = 3600.0  # of a call or a delivery


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a parameter's value must be. low, high: of a number."""

    type: Literal["number", "whole", "decimal", "flag", "text"] = "text"
    low: float = 0
    high: float = 0


_PARAMETERS = {
    "seconds": Parameter("number", 0, 31_536_000),
    "retryAfterSeconds": Parameter("number", 0, 3600),
    "probability": Parameter("number", 0, 1),
    "count": Parameter("whole", 1, 1_000_000),
    "copies": Parameter("whole", 2, 20),
    "status": Parameter("whole", 400, 599),
    "attempts": Parameter("whole", 1, 13),
    "by": Parameter("decimal"),
    "amount": Parameter("decimal"),
    "sameEntity": Parameter("flag"),
}


def parameter(name: str, group: Group) -> Parameter:
    """What a parameter takes for faults of a group; text unless it is known."""
    found = _PARAMETERS.get(name, Parameter())
    return replace(found, high=_WAIT_MAX) if name == "seconds" and group in ("delivery", "call") else found


@dataclass(frozen=True, slots=True)
class Faults:
    """The switches that are on, kept with everything else."""

    documents: Documents
    random: random.Random

    def add(self, given: Any) -> Document:
        """Switch a fault on. Raises Refused (400) naming every mistake."""
        return self._keep(_checked(given))

    def add_mix(self, given: Any) -> list[Document]:
        """Switch on a bit of everything that a service must live with; `share`: how likely each kind is."""
        share = given.get("share", 0.1) if isinstance(given, dict) else None
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 0.5:
            raise invalid(Violation("share", "must be a number from 0 to 0.5"))
        with self.documents.transaction():
            return [self._keep({**fault, "probability": share, "isMix": True}) for fault in MIX]

    def _keep(self, fault: Document) -> Document:
        fault = {**fault, "id": str(uuid4()), "used": 0}
        return self.documents.put("fault", fault["id"], fault)

    def all(self) -> list[Document]:
        """Those that are on, oldest first."""
        return self.documents.all("fault")

    def remove(self, id_: str | None) -> None:
        """Switch one off, or all. Raises Refused (404)."""
        with self.documents.transaction():
            if id_ is not None and self.documents.get("fault", id_) is None:
                raise not_found("fault", id_)
            for fault in self.all():
                if id_ in (None, fault["id"]):
                    self.documents.remove("fault", fault["id"])

    def strike(
        self, group: Group, about: dict[str, str | None], *, but: Collection[str] = ()
    ) -> Document | None:
        """The first fault of the group that hits, used up by one; None when nothing goes wrong.

        about: what is known of the event or call: instanceId, eventType, paymentLinkId, path. but: kinds that
        cannot strike here.
        """
        with self.documents.transaction():
            return next(self._striking(group, about, but), None)

    def strikes(self, group: Group, about: dict[str, str | None]) -> set[str]:
        """The kinds of the group that hit, each used up by one."""
        with self.documents.transaction():
            return {fault["kind"] for fault in self._striking(group, about, ())}

    def _striking(self, group: Group, about: dict[str, str | None], but: Collection[str]) -> Any:
        for fault in self.all():
            kind = fault["kind"]
            if FAULTS[kind].group != group or kind in but or not _concerns(fault, about):
                continue
            if self.random.random() >= fault.get("probability", 1.0):
                continue
            fault["used"] += 1
            if fault.get("count") is not None and fault["used"] >= fault["count"]:
                self.documents.remove("fault", fault["id"])
            else:
                self.documents.put("fault", fault["id"], fault)
            yield fault

    def of_read(self, kind: str) -> list[Document]:
        """Faults of one kind of reading that are on; reading does not use them up."""
        return [fault for fault in self.all() if fault["kind"] == kind]


def _concerns(fault: Document, about: dict[str, str | None]) -> bool:
    for name in ("instanceId", "paymentLinkId"):
        if fault.get(name) is not None and fault[name] != about.get(name):
            return False
    if (ending := fault.get("eventType")) is not None and not (about.get("eventType") or "").endswith(ending):
        return False
    wanted, path = fault.get("path"), about.get("path") or ""
    return wanted is None or (path == wanted[1:] if wanted.startswith("=") else wanted in path)


def parameters_of(kind: str) -> tuple[str, ...]:
    """What a fault of this kind takes: its own parameters, how often, and what it is limited to."""
    known = FAULTS[kind]
    often = () if known.group == "read" else ("count", "probability")
    return (*known.parameters, *often, *_LIMITS[known.group])


def _checked(given: Any) -> Document:
    if not isinstance(given, dict):
        raise invalid(Violation("", "must be an object with a kind"))
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in FAULTS:
        raise invalid(Violation("kind", f"must be one of {', '.join(FAULTS)}", "ENUM"))
    known = parameters_of(kind)
    wrong = [
        Violation(name, f"is required for {kind}", "REQUIRED_FIELD")
        for name, is_required in FAULTS[kind].parameters.items()
        if is_required and given.get(name) is None
    ]
    for name, value in given.items():
        if name == "kind" or value is None:
            continue
        if name not in known:
            wrong.append(Violation(name, f"is not a parameter of {kind}, which takes {', '.join(known)}"))
        elif (why := _mistake(name, value, FAULTS[kind].group)) is not None:
            wrong.append(Violation(name, why))
    if wrong:
        raise invalid(*wrong)
    return {name: value for name, value in given.items() if value is not None}


def _mistake(name: str, value: Any, group: Group) -> str | None:
    """What is wrong with a parameter's value, None when nothing is."""
    takes = parameter(name, group)
    match takes.type:
        case "number":
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not takes.low <= value <= takes.high
            ):
                return f"must be a number from {takes.low:g} to {takes.high:g}"
        case "whole":
            if isinstance(value, bool) or not isinstance(value, int) or not takes.low <= value <= takes.high:
                return f"must be a whole number from {takes.low} to {takes.high}"
        case "decimal":
            if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
                return 'must be a decimal as text, such as "1.50"'
        case "flag":
            if not isinstance(value, bool):
                return "must be true or false"
        case "text":
            if not isinstance(value, str):
                return "must be text"
        case _:
            assert_never(takes.type)
    return None
