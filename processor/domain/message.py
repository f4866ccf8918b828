"""The messages that alerts become: a document for programs, and the same as a mail for persons. Pure.

A document is JSON as Standard Webhooks asks for it: `type`, `timestamp` and `data`. It is made once and kept, so that
every attempt sends the same. Amounts and times are text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from processor.domain.alert import REMEDIES, TITLES, AlertKind
from processor.domain.discrepancy import ADVICE, EXPLANATIONS, SIDES, DiscrepancyType, aging
from processor.domain.money import shown

TYPES: dict[AlertKind, str] = {
    AlertKind.DISCREPANCY_OPENED: "discrepancy.opened",
    AlertKind.DISCREPANCY_REOPENED: "discrepancy.reopened",
    AlertKind.DISCREPANCY_WORSENED: "discrepancy.worsened",
    AlertKind.DISCREPANCY_RESOLVED: "discrepancy.resolved",
    AlertKind.DISCREPANCY_WRITTEN_OFF: "discrepancy.written_off",
    AlertKind.WRITE_OFF_PROPOSED: "write_off.proposed",
    AlertKind.WEBHOOKS_SILENT: "webhooks.silent",
    AlertKind.WEBHOOKS_BACK: "webhooks.back",
    AlertKind.WIX_UNREACHABLE: "wix.unreachable",
    AlertKind.WIX_REACHABLE: "wix.reachable",
    AlertKind.BACKFILL_FINISHED: "backfill.finished",
    AlertKind.RULES_UNREADABLE: "rules.unreadable",
}
"""The type of the message about one alert of each kind. Others are `alerts.group`, `alerts.digest`, `alerts.test`."""
GROUP, DIGEST, TEST = "alerts.group", "alerts.digest", "alerts.test"

FIRST_MAX = 10  # alerts told one by one in a group
LINES_MAX = 50  # lines of counts in a group or a digest
SUBJECT_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An alert as it is told. kind: text, since a newer release beside us may know more of them than `AlertKind`.

    document: what it says of its subject.
    """

    alert_id: UUID
    kind: str
    severity: str
    instance_id: UUID | None
    subject: str
    at: datetime
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Alerts, discrepancies or changes that are alike. type, currency, amount, since: None where there is none.

    what: the kind of the alerts, or what became of the discrepancies. amount: at risk, in main units. since: when the
    oldest came up.
    """

    what: str
    instance_id: UUID | None
    number: int
    severity: str | None = None
    type: str | None = None
    currency: str | None = None
    amount: Decimal | None = None
    since: datetime | None = None


def about_alert(alert: Told) -> dict[str, Any]:
    """The message about one alert."""
    kind = _kind(alert.kind)
    return {"type": TYPES[kind] if kind else alert.kind, "timestamp": _moment(alert.at), "data": _told(alert)}


def about_group(
    number: int, counted: Sequence[Counted], first: Sequence[Told], *, now: datetime
) -> dict[str, Any]:
    """One message about many alerts: how many of what, and the first few. counted: LINES_MAX + 1 at most."""
    data = {
        "number": number,
        "counts": [_counted(one) for one in counted[:LINES_MAX]],
        "has_more_counts": len(counted) > LINES_MAX,
        "first": [_told(one) for one in first],
    }
    return {"type": GROUP, "timestamp": _moment(now), "data": data}


def about_period(
    since: datetime,
    until: datetime,
    *,
    open_now: Sequence[Counted],
    changes: Sequence[Counted],
    others: Sequence[Counted],
    now: datetime,
) -> dict[str, Any] | None:
    """The digest of a period, None when nothing is open and nothing happened. Each LINES_MAX + 1 at most.

    changes: of discrepancies, one for each however often it flapped. others: alerts of no discrepancy.
    """
    if not (open_now or changes or others):
        return None
    data: dict[str, Any] = {"from": _moment(since), "to": _moment(until), "as_of": _moment(now)}
    for name, lines in (("open", open_now), ("changes", changes), ("others", others)):
        data[name] = [_counted(one) for one in lines[:LINES_MAX]]
        data[f"has_more_{name}"] = len(lines) > LINES_MAX
    return {"type": DIGEST, "timestamp": _moment(now), "data": data}


def about_nothing(now: datetime) -> dict[str, Any]:
    """A test."""
    data = {"title": "This is a test of how alerts are delivered. Nothing happened."}
    return {"type": TEST, "timestamp": _moment(now), "data": data}


def _told(alert: Told) -> dict[str, Any]:
    type_, kind = _type(alert.document.get("type")), _kind(alert.kind)
    remedy = REMEDIES.get(kind) if kind else None
    return {
        "alert_id": str(alert.alert_id),
        "kind": alert.kind,
        "severity": alert.severity,
        "instance_id": _plain(alert.instance_id),
        "subject": alert.subject,
        "at": _moment(alert.at),
        "title": TITLES[kind] if kind else _in_words(alert.kind),
        "explanation": EXPLANATIONS[type_] if type_ else None,
        "advice": remedy or (ADVICE[type_] if type_ else None),
        "details": dict(alert.document),
    }


def _counted(one: Counted) -> dict[str, Any]:
    return {
        "what": one.what,
        "instance_id": _plain(one.instance_id),
        "type": one.type,
        "severity": one.severity,
        "number": one.number,
        "amount_at_risk": _plain(one.amount),
        "currency": one.currency,
        "since": _moment(one.since) if one.since else None,
    }


def _kind(name: str) -> AlertKind | None:
    """None for a kind that a newer release beside us knows."""
    try:
        return AlertKind(name)
    except ValueError:
        return None


def _in_words(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _type(name: Any) -> DiscrepancyType | None:
    """None for what is no discrepancy, and for a type that a newer release beside us knows."""
    try:
        return DiscrepancyType(name)
    except ValueError:
        return None


def _plain(value: object) -> str | None:
    return None if value is None else str(value)


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- As a mail -------------------------------------------------------------------------------------


def as_mail(document: Mapping[str, Any]) -> tuple[str, str]:
    """Subject, of one line, and text of the mail for a document made here."""
    data = document["data"]
    match document["type"]:
        case "alerts.group":
            subject, lines = _group_mail(data)
        case "alerts.digest":
            subject, lines = _digest_mail(data)
        case "alerts.test":
            subject, lines = "Test of alerts", [data["title"]]
        case _:
            subject, lines = _alert_mail(data)
    return _one_line(subject)[:SUBJECT_MAX], "\n".join(map(_one_line, lines)) + "\n"


def _alert_mail(data: Mapping[str, Any]) -> tuple[str, list[str]]:
    details = data["details"]
    lines = [data["title"]]
    lines += [text for text in (data["explanation"], data["advice"]) if text]
    lines.append("")
    rows = [("when", _short(data["at"])), ("site's app instance", data["instance_id"])]
    if "discrepancy_id" in details:
        rows += [
            ("type", details.get("type")),
            ("payment link", details.get("payment_link_id")),
            ("payment", details.get("payment_id")),
            ("amount at risk", _money(details.get("amount_at_risk"), details.get("currency"))),
        ]
        rows += [(SIDES.get(side, side), told) for side, told in (details.get("sides") or {}).items()]
        rows.append(("reason", details.get("reason")))
    else:
        rows += [(name.replace("_", " "), told) for name, told in details.items()]
    width = max(len(name) for name, told in rows if told is not None)
    lines += [f"{name + ':':<{width + 1}}  {told}" for name, told in rows if told is not None]
    command = _command(data)
    if command:
        lines += ["", f"See it: {command}"]
    return _line(data), lines


def _group_mail(data: Mapping[str, Any]) -> tuple[str, list[str]]:
    lines = [f"{data['number']} alerts came together.", ""]
    lines += [f"- {_count_line(one)}" for one in data["counts"]]
    if data["has_more_counts"]:
        lines.append("- and more")
    lines += ["", f"The first {len(data['first'])}:", ""]
    for one in data["first"]:
        lines.append(f"- {_short(one['at'])} {_line(one)}")
        command = _command(one)
        if command:
            lines.append(f"  {command}")
    lines += ["", "See all: processor alerts list"]
    return f"{data['number']} alerts", lines


def _digest_mail(data: Mapping[str, Any]) -> tuple[str, list[str]]:
    number = sum(one["number"] for one in data["open"])
    lines = [f"From {_short(data['from'])} to {_short(data['to'])}.", ""]
    if data["open"]:
        lines += ["Open now:", ""]
        lines += [f"- {_count_line(one, data['as_of'])}" for one in data["open"]]
    else:
        lines.append("Nothing is open.")
    for name, title in (
        ("changes", "What changed since the last digest:"),
        ("others", "What else happened:"),
    ):
        if data[name]:
            lines += ["", title, "", *(f"- {_count_line(one)}" for one in data[name])]
    if any(data[f"has_more_{name}"] for name in ("open", "changes", "others")):
        lines += ["", "There is more than fits in here."]
    lines += ["", "See them: processor discrepancies list"]
    more = " or more" if data["has_more_open"] else ""
    return f"Digest: {number}{more} open discrepanc{'y' if number == 1 else 'ies'}", lines


def _count_line(one: Mapping[str, Any], as_of: str | None = None) -> str:
    """ "12 amount_differs (error), 60.00 USD at risk, oldest 4 to 7 days, instance …"."""
    words = [f"{one['number']} {one['what'].replace('_', ' ')}"]
    if one["type"]:
        words[0] += f": {one['type']}"
    if one["severity"]:
        words[0] += f" ({one['severity']})"
    if one["amount_at_risk"] is not None:
        words.append(f"{_money(one['amount_at_risk'], one['currency'])} at risk")
    if one["since"] and as_of:
        words.append(f"oldest {aging(datetime.fromisoformat(as_of) - datetime.fromisoformat(one['since']))}")
    if one["instance_id"]:
        words.append(f"instance {one['instance_id']}")
    return ", ".join(words)


def _line(data: Mapping[str, Any]) -> str:
    """One alert in one line: "discrepancy opened: amount_differs, 12.00 USD at risk"."""
    details = data["details"]
    line = _in_words(data["kind"])
    if details.get("type"):
        line += f": {details['type']}"
    money = _money(details.get("amount_at_risk"), details.get("currency"))
    if money:
        line += f", {money} at risk"
    return line


def _command(data: Mapping[str, Any]) -> str | None:
    details = data["details"]
    if "discrepancy_id" in details:
        return f"processor discrepancies show {details['discrepancy_id']}"
    return f"processor instances show {data['instance_id']}" if data["instance_id"] else None


def _money(amount: Any, currency: Any) -> str | None:
    if amount is None or currency is None:
        return None
    return f"{shown(Decimal(str(amount)), str(currency))} {currency}"


def _short(moment: str) -> str:
    return f"{moment[:16].replace('T', ' ')} UTC"


def _one_line(text: str) -> str:
    """Nothing that could end a header, or steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
