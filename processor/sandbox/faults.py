"""The pretend Wix's fault switches: what goes wrong, for whom, and how often.

| kind | parameters | what happens |
|---|---|---|
| `drop` | | the event is never delivered |
| `duplicate` | `copies` (2) | the event is delivered that often, all at once |
| `reorder` | `sameEntity` (false) | the event waits for a later one of its instance, or of its payment or link |
| `delay` | `seconds` | the event is delivered that much later |
| `read_lag` | `seconds` | queries show new payments and links, and changes, only after that time |
| `wrong_total` | `linkId`, `by` | the link's `totalReceived.amount` is off by that amount |
| `amount_edited` | `paymentId`, `amount` | queries show another amount than the webhook told |
| `payment_deleted` | `paymentId` | queries no longer show the payment |
| `status` | `status`, `retryAfterSeconds` | the REST call is answered with that status |
| `hang` | `seconds` | the REST call is answered only then |
| `slow` | `seconds` | the body drips in over that time |
| `truncated` | | the answer ends in the middle |

Every fault takes `count` (how often, None for ever), `probability` (1.0) and what it is limited to: the
first four `instanceId`, `eventType` (an ending), `paymentLinkId`; `status`, `hang`, `slow` and `truncated`
`instanceId` and `path` (a part of it).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from processor.sandbox.documents import Document, Documents
from processor.sandbox.errors import Violation, invalid, not_found

EVENT_KINDS = ("drop", "duplicate", "reorder", "delay")
REST_KINDS = ("status", "hang", "slow", "truncated")
READ_KINDS = ("read_lag", "wrong_total", "amount_edited", "payment_deleted")

_AMOUNT = re.compile(r"-?\d{1,15}(\.\d{1,3})?")
_NUMBERS = {"seconds": (0.0, 3600.0), "retryAfterSeconds": (0.0, 3600.0), "probability": (0.0, 1.0)}
_WHOLE = {"count": (1, 1_000_000), "copies": (2, 20), "status": (400, 599)}
_TEXTS = ("instanceId", "eventType", "paymentLinkId", "linkId", "paymentId", "path")
_REQUIRED = {
    "delay": ("seconds",),
    "read_lag": ("seconds",),
    "wrong_total": ("linkId", "by"),
    "amount_edited": ("paymentId", "amount"),
    "payment_deleted": ("paymentId",),
    "status": ("status",),
    "hang": ("seconds",),
    "slow": ("seconds",),
}


@dataclass(frozen=True, slots=True)
class Faults:
    """The switches that are on, kept with everything else."""

    documents: Documents
    random: random.Random

    def add(self, given: Any) -> Document:
        """Switch a fault on. Raises Refused (400) naming every mistake."""
        fault = _checked(given)
        fault["id"] = str(uuid4())
        fault["used"] = 0
        return self.documents.put("fault", fault["id"], fault)

    def all(self) -> list[Document]:
        """Those that are on, oldest first."""
        return self.documents.all("fault")

    def remove(self, id_: str | None) -> None:
        """Switch one off, or all. Raises Refused (404)."""
        if id_ is not None and self.documents.get("fault", id_) is None:
            raise not_found("fault", id_)
        for fault in self.all():
            if id_ in (None, fault["id"]):
                self.documents.remove("fault", fault["id"])

    def strike(self, kinds: tuple[str, ...], about: dict[str, str | None]) -> Document | None:
        """The first fault of these kinds that hits, used up by one; None when nothing goes wrong.

        about: what is known of the event or call: instanceId, eventType, paymentLinkId, path.
        """
        with self.documents.transaction():
            for fault in self.all():
                if fault["kind"] not in kinds or not _concerns(fault, about):
                    continue
                if self.random.random() >= fault.get("probability", 1.0):
                    continue
                fault["used"] += 1
                if fault.get("count") is not None and fault["used"] >= fault["count"]:
                    self.documents.remove("fault", fault["id"])
                else:
                    self.documents.put("fault", fault["id"], fault)
                return fault
        return None

    def of_read(self, kind: str) -> list[Document]:
        """Faults of one of READ_KINDS that are on; reading does not use them up."""
        return [fault for fault in self.all() if fault["kind"] == kind]


def _concerns(fault: Document, about: dict[str, str | None]) -> bool:
    for name in ("instanceId", "paymentLinkId"):
        if fault.get(name) is not None and fault[name] != about.get(name):
            return False
    if (ending := fault.get("eventType")) is not None and not (about.get("eventType") or "").endswith(ending):
        return False
    return fault.get("path") is None or fault["path"] in (about.get("path") or "")


def _checked(given: Any) -> Document:
    if not isinstance(given, dict):
        raise invalid(Violation("", "must be an object with a kind"))
    kind = given.get("kind")
    if kind not in (*EVENT_KINDS, *REST_KINDS, *READ_KINDS):
        known = ", ".join((*EVENT_KINDS, *REST_KINDS, *READ_KINDS))
        raise invalid(Violation("kind", f"must be one of {known}", "ENUM"))
    wrong = [
        Violation(name, f"is required for {kind}", "REQUIRED_FIELD")
        for name in _REQUIRED.get(kind, ())
        if given.get(name) is None
    ]
    for name, value in given.items():
        if name == "kind" or value is None:
            continue
        if name in _NUMBERS:
            low, high = _NUMBERS[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                wrong.append(Violation(name, f"must be a number from {low:g} to {high:g}"))
        elif name in _WHOLE:
            first, last = _WHOLE[name]
            if isinstance(value, bool) or not isinstance(value, int) or not first <= value <= last:
                wrong.append(Violation(name, f"must be a whole number from {first} to {last}"))
        elif name in ("by", "amount"):
            if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
                wrong.append(Violation(name, 'must be a decimal as text, such as "1.50"'))
        elif name == "sameEntity":
            if not isinstance(value, bool):
                wrong.append(Violation(name, "must be true or false"))
        elif name not in _TEXTS:
            wrong.append(Violation(name, "is not a parameter of any fault"))
        elif not isinstance(value, str):
            wrong.append(Violation(name, "must be text"))
    if wrong:
        raise invalid(*wrong)
    return {name: value for name, value in given.items() if value is not None}
