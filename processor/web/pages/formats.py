"""How pages print things: money, times, ids and words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from flask import Flask, url_for
from markupsafe import Markup, escape

from processor.domain import money
from processor.web.pages.failures import failure
from processor.web.pages.masking import masked_but_ids

STATIC = Path(__file__).with_name("static")
_BREAKS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")
# As checks and commands write a time down.
_WRITTEN = re.compile(r"\b(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:Z| UTC)\b", re.ASCII)
# Of what people enter or Wix sends: it would turn the text around it, or hide in it.
_UNSEEN = dict.fromkeys(
    [
        *range(0x20),
        0x7F,
        *range(0x80, 0xA0),
        0x061C,
        0x200B,
        0x200E,
        0x200F,
        *range(0x2028, 0x202F),
        *range(0x2060, 0x2070),
        0xFEFF,
    ],
    "\N{REPLACEMENT CHARACTER}",
) | {0x0A: "\n", 0x09: " "}


def amount(value: Decimal | None, currency: str | None) -> str:
    """`12,345.50`, with the decimals of the currency; a dash for None."""
    if value is None:
        return "–"
    text = money.shown(abs(value), currency or "")
    whole, point, rest = text.partition(".")
    grouped = f"{int(whole):,}{point}{rest}"
    return f"−{grouped}" if value < 0 else grouped


def number(value: int | None) -> str:
    """`12,345`; a dash for None."""
    return "–" if value is None else f"{value:,}"


def short(value: UUID | str | None) -> str:
    """The first eight letters of an id, for the eye; a dash for None."""
    return "–" if value is None else str(value)[:8]


# Codes whose words would say something else than is the case.
_CALLED = {"refund_on_order_only": "Refund not in Wix’s total"}


def words(value: Any) -> str:
    """A code as words: `amount_differs` is "Amount differs", `CREDIT_CARD` is "Credit card"."""
    if value is None:
        return "–"
    if str(value) in _CALLED:
        return _CALLED[str(value)]
    text = _BREAKS.sub(" ", str(value)).strip().lower()
    return text[:1].upper() + text[1:]


def seen(value: Any) -> str:
    """Text of others, without what cannot be seen and what would turn the text around it."""
    return "" if value is None else str(value).translate(_UNSEEN)


def said(value: Any) -> str:
    """What Wix says in words that merchants or buyers may have typed, as `seen`, without what looks personal."""
    return masked_but_ids(seen(value))


def span(gap: timedelta | None) -> str:
    """A length of time in its largest unit: "3 days", "2 h", "45 s"; a dash for None."""
    if gap is None:
        return "–"
    seconds = max(0, int(gap.total_seconds()))
    for size, unit in ((86_400, "day"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if unit == 'day' and count != 1 else ''}"
    return f"{seconds} s"


class Clock:
    """Prints times in the zone of reports. now: aware."""

    def __init__(self, zone: str, now: Callable[[], datetime]) -> None:
        self.zone_name = zone
        self.zone = ZoneInfo(zone)
        self._now = now

    def moment(self, value: datetime | None) -> Markup:
        """A time to the second as `<time>`; a dash for None."""
        if value is None:
            return Markup("–")
        local = value.astimezone(self.zone)
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            value.astimezone(UTC).isoformat(),
            f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}",
            f"{local:%d %b %Y, %H:%M:%S}",
        )

    def ago(self, value: datetime | None) -> Markup:
        """How long ago, or ahead, with the time itself as its title; a dash for None."""
        if value is None:
            return Markup("–")
        gap = self._now() - value
        said = f"{span(gap)} ago" if gap >= timedelta(0) else f"in {span(-gap)}"
        local = value.astimezone(self.zone)
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            value.astimezone(UTC).isoformat(), f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}", said
        )

    def age(self, value: datetime | None) -> str:
        """How long since; a dash for None."""
        return span(None if value is None else self._now() - value)

    def day(self, value: date | datetime | None) -> str:
        """`28 Nov 2026`; a dash for None."""
        if value is None:
            return "–"
        if isinstance(value, datetime):
            value = value.astimezone(self.zone).date()
        return f"{value:%d %b %Y}"

    def zoned(self, text: str) -> str:
        """Text in which UTC times that were written down are those of the zone, which is named beside each."""
        return _WRITTEN.sub(self._of_zone, text)

    def _of_zone(self, found: re.Match[str]) -> str:
        try:
            moment = datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00").astimezone(self.zone)
        except (ValueError, OverflowError):
            return found[0]
        return f"{moment:%d %b %Y, %H:%M:%S} {moment.tzname()}"

    def midnight(self, day: date) -> datetime:
        """The moment the day begins, in UTC."""
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(UTC)


@cache
def _version(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


def asset(name: str) -> str:
    """The address of a file of `static`, another one when it changed."""
    return url_for("static", filename=name, v=_version(name))


def install(app: Flask, clock: Clock) -> None:
    """Give the templates all of it."""
    app.jinja_env.filters.update(
        amount=amount,
        number=number,
        short=short,
        words=words,
        failure=failure,
        seen=seen,
        said=said,
        span=span,
        moment=clock.moment,
        ago=clock.ago,
        age=clock.age,
        zoned=clock.zoned,
        day=clock.day,
    )
    app.jinja_env.globals.update(asset=asset, escape=escape, zone=clock.zone_name)
