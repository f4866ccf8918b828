"""Whether the books are right, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from flask import Blueprint, render_template, request
from sqlalchemy import Connection

from processor import metrics
from processor.domain.access import Permission, Reach
from processor.domain.discrepancy import AGING
from processor.store import operations
from processor.store.screens import overview
from processor.store.screens.overview import Day, DaySum, OpenItems
from processor.web.pages.access import needs, reach
from processor.web.pages.assessment import Books, Trouble, assess
from processor.web.pages.charts import Chart, brief, chart
from processor.web.pages.formats import Clock
from processor.web.pages.remembered import DayDeliveries, DaySums
from processor.web.pages.site import Site

DAYS = 30
FIGURES_MAX = 6  # currencies of today; the table has all
CHARTS_MAX = 4  # of them, those that are drawn
STALLED_AFTER = timedelta(minutes=5)  # the clock beats every few seconds
LATE_BEYOND_SETTLING = timedelta(minutes=5)
OUTAGES_FOR = timedelta(days=7)  # how long an outage that is over stays on the page
WEBHOOKS = 0.99  # the share of webhooks whose answer time is told


@dataclass(frozen=True, slots=True)
class Trend:
    """What was received in one currency over DAYS days.

    amounts, payments: by day, the oldest first; None for one that is not known yet. chart: None when it is not drawn.
    """

    currency: str
    amounts: tuple[Decimal | None, ...]
    payments: tuple[int | None, ...]
    chart: Chart | None

    @property
    def total(self) -> Decimal:
        """Of the days that are known."""
        return sum((one for one in self.amounts if one is not None), Decimal(0))

    @property
    def number(self) -> int:
        """Payments of the days that are known."""
        return sum(one for one in self.payments if one is not None)


def trends(sums: dict[date, tuple[DaySum, ...]], days: Sequence[date]) -> list[Trend]:
    """By currency, the one with the most payments first. days: the oldest first."""
    found: dict[str, dict[date, DaySum]] = {}
    for day, ones in sums.items():
        for one in ones:
            found.setdefault(one.currency, {})[day] = one
    unsorted = []
    for currency, by_day in found.items():
        amounts = tuple(
            (by_day[day].amount if day in by_day else Decimal(0)) if day in sums else None for day in days
        )
        payments = tuple(
            (by_day[day].payments if day in by_day else 0) if day in sums else None for day in days
        )
        unsorted.append((currency, amounts, payments))
    unsorted.sort(key=lambda one: (-sum(number or 0 for number in one[2]), one[0]))
    return [
        Trend(*one, chart(one[1]) if number < CHARTS_MAX else None) for number, one in enumerate(unsorted)
    ]


@dataclass(frozen=True, slots=True)
class Ages:
    """Open discrepancies of one aging bucket; those without a bucket are all of them."""

    bucket: str | None
    number: int
    at_risk: tuple[tuple[Decimal, str], ...]


def ages(items: Sequence[OpenItems]) -> tuple[Ages, list[Ages]]:
    """All open discrepancies, and those of each bucket in which there are any, the youngest first."""
    found: dict[str | None, list[OpenItems]] = {}
    for one in items:
        found.setdefault(one.bucket, []).append(one)
    summed = {bucket: _summed(bucket, ones) for bucket, ones in found.items()}
    return (
        summed.get(None, Ages(None, 0, ())),
        [summed[bucket] for bucket, _ in AGING if bucket in summed],
    )


def _summed(bucket: str | None, ones: Sequence[OpenItems]) -> Ages:
    return Ages(
        bucket,
        sum(one.number for one in ones),
        tuple((one.at_risk, one.currency) for one in ones if one.at_risk is not None and one.currency),
    )


def last_days(clock: Clock, now: datetime, number: int) -> list[Day]:
    """Today and the days before it, in the zone of reports."""
    today = now.astimezone(clock.zone).date()
    days = [today - timedelta(days=back) for back in range(number)]
    return [Day(day, clock.midnight(day), clock.midnight(day + timedelta(days=1))) for day in days]


def blueprint(site: Site) -> Blueprint:
    """`/`, and the part of it that is looked at anew every few seconds."""
    routes = Blueprint("overview", __name__)
    sums, deliveries, answers = DaySums(), DayDeliveries(), _Answers()
    settings = site.services.settings
    late_after = timedelta(seconds=settings.settling_seconds) + LATE_BEYOND_SETTLING

    def look(connection: Connection, by: Reach, now: datetime) -> dict[str, Any]:
        days = last_days(site.clock, now, DAYS)
        today = days[0]
        received = sums.look(by, days, now, lambda wanted: overview.received(connection, by, wanted))
        every, by_age = ages(overview.open_items(connection, by, now))
        waiting = overview.waiting(connection, by, now)
        instances = overview.instances(connection, by)
        beat = operations.last_beat(connection, operations.CLOCK)
        books = Books(
            open=min(every.number, overview.OPEN_MAX),
            is_open_cut=every.number > overview.OPEN_MAX,
            at_risk=every.at_risk,
            waiting=min(waiting.links, overview.WAITING_MAX),
            is_waiting_cut=waiting.links > overview.WAITING_MAX,
            waiting_since=waiting.late_since,
            stalled_since=beat if beat is not None and now - beat > STALLED_AFTER else None,
            unreachable=_trouble(instances.unreachable, instances.unreachable_since),
            silent=_trouble(instances.silent, instances.silent_since),
            held=waiting.held,
            is_empty=not any(received.values()) and overview.is_empty(connection, by),
        )
        return {
            "now": now,
            "said": assess(books, now, late_after=late_after, at=_plainly(site.clock)),
            "today": {one.currency: one for one in received.get(today.day, ())},
            "figures_max": FIGURES_MAX,
            "days": [one.day for one in reversed(days)],
            "missing": len(days) - len(received),
            "recovered": sum(one.recovered for ones in received.values() for one in ones),
            "trends": trends(received, [one.day for one in reversed(days)]),
            "open": every,
            "ages": by_age,
            "waiting": waiting,
            "delivered": deliveries.look(
                by,
                today.day,
                now,
                lambda: overview.delivered(connection, by, today.since, now.astimezone(UTC).date()),
            ),
            "answers": answers.look(now),
            "instances": instances,
            "outages": overview.past_outages(connection, by, now - OUTAGES_FOR),
        }

    def shown(template: str) -> str:
        by, now = reach(), site.services.now()
        with site.read() as connection:
            found = look(connection, by, now)
        is_live = request.args.get("updates") != "off"
        return render_template(
            template, **found, is_live=is_live, brief=brief, every_instance=by.instance_ids is None
        )

    @routes.get("/")
    @needs(Permission.READ)
    def index() -> str:
        return shown("overview.html")

    @routes.get("/overview/now")
    @needs(Permission.READ, is_live=True)
    def live() -> str:
        return shown("overview_now.html")

    return routes


def _trouble(number: int, since: datetime | None) -> Trouble | None:
    return Trouble(number, since) if number and since is not None else None


def _plainly(clock: Clock) -> Any:
    def at(value: datetime) -> str:
        return f"{value.astimezone(clock.zone):%d %b %Y, %H:%M}"

    return at


class _Answers:
    """How fast webhooks are answered, read anew every few seconds: it may take reading files of other processes."""

    def __init__(self) -> None:
        self._kept: tuple[float | None, int] = None, 0
        self._until: datetime | None = None

    def look(self, now: datetime) -> tuple[float | None, int]:
        """As `metrics.answered_within`."""
        if self._until is None or now >= self._until:
            self._kept, self._until = metrics.answered_within(WEBHOOKS), now + timedelta(seconds=5)
        return self._kept
