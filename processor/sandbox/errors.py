"""What the pretend Wix refuses, in the shapes of Wix's error bodies (Wix docs, "Errors").

Application codes that Wix does not document begin with SANDBOX_, so that nobody takes them for Wix's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Refused(Exception):
    """An answer other than 200. headers: added to it."""

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(body.get("message", ""))
        self.status = status
        self.body = body
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Violation:
    """One line of `fieldViolations`."""

    field: str
    description: str
    rule: str = "CUSTOM"


def failed(status: int, code: str, description: str) -> Refused:
    """An application error."""
    application = {"code": code, "description": description, "data": {}}
    return Refused(status, {"message": description, "details": {"applicationError": application}})


def invalid(*violations: Violation) -> Refused:
    """A validation error: 400."""
    lines = [
        {
            "field": one.field,
            "description": one.description,
            "violatedRule": one.rule,
            # As in Wix's sample: only a rule of the service's own has a name.
            **({"ruleName": "INVALID"} if one.rule == "CUSTOM" else {}),
            "data": {},
        }
        for one in violations
    ]
    message = "; ".join(f"{one.field} {one.description}" for one in violations)
    return Refused(400, {"message": message, "details": {"validationError": {"fieldViolations": lines}}})


def not_found(what: str, id_: str) -> Refused:
    """404. The code follows Wix's pattern for sister APIs; Wix does not document its name."""
    return failed(404, f"SANDBOX_{what.upper().replace(' ', '_')}_NOT_FOUND", f"{what} {id_[:64]} not found")


def plain(status: int, message: str, headers: dict[str, str] | None = None) -> Refused:
    """A 4xx without details, which also occurs."""
    return Refused(status, {"message": message, "details": {}}, headers)


def system(status: int, headers: dict[str, str] | None = None) -> Refused:
    """A 5xx: message and details are empty, on purpose."""
    return Refused(status, {"message": "", "details": {}}, headers)
