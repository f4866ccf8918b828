"""Whether the books are right, at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from flask import Blueprint, render_template, request, url_for
from redis.exceptions import RedisError
from sqlalchemy import Connection

from processor import metrics
from processor.domain.access import Permission, Reach
from processor.domain.discrepancy import AGING
from processor.findings import Finding
from processor.store import operations
from processor.store import rules as rules_store
from processor.store.screens import overview
from processor.store.screens import rules as rules_screen
from processor.store.screens.overview import Day, DaySum, OpenItems
from processor.store.screens.refunded import net
from processor.web.pages import queues
from processor.web.pages.access import account, needs, reach
from processor.web.pages.assessment import About, Books, Trouble, assess
from processor.web.pages.charts import Chart, brief, chart
from processor.web.pages.formats import Clock
from processor.web.pages.remembered import DayDeliveries, DaySums
from processor.web.pages.screens.health import OF_NO_INSTANCE, looked_at
from processor.web.pages.site import Site
from processor.wiring import Services

DAYS = 30
FIGURES_MAX = 6  # currencies of today; the table has all
CHARTS_MAX = 4  # of them, those that are drawn
STALLED_AFTER = timedelta(minutes=5)  # the clock beats every few seconds
LATE_BEYOND_SETTLING = timedelta(minutes=5)
OUTAGES_FOR = timedelta(days=7)  # how long an outage that is over stays on the page
FINDINGS_FOR = timedelta(minutes=1)  # how long what the doctor found is said again
RULES_MAX = 10  # proposed rules that are counted
WEBHOOKS = 0.99  # the share of webhooks whose answer time is told


@dataclass(frozen=True, slots=True)
class Trend:
    """What was received in one currency over DAYS days.

    amounts, payments: by day, the oldest first; None for one that is not known yet. chart: None when it is not drawn.
    days: sums by day, without those that have none.
    """

    currency: str
    amounts: tuple[Decimal | None, ...]
    payments: tuple[int | None, ...]
    chart: Chart | None
    days: Mapping[date, DaySum] = field(default_factory=dict)

    @property
    def refunded(self) -> Decimal | None:
        """Given back of what was received on these days, as told; None when no refund of it was told of."""
        told = [one.refunded for one in self.days.values() if one.refunded is not None]
        return sum(told, Decimal(0)) if told else None

    @property
    def unclear(self) -> int:
        """Payments of which a refund succeeded whose amount cannot be booked."""
        return sum(one.unclear for one in self.days.values())

    @property
    def net(self) -> Decimal | None:
        """The total less what was refunded; None when that is unclear."""
        return net(self.total, self.refunded, is_unclear=self.unclear > 0)

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
        unsorted.append((currency, amounts, payments, by_day))
    unsorted.sort(key=lambda one: (-sum(number or 0 for number in one[2]), one[0]))
    return [
        Trend(currency, amounts, payments, chart(amounts) if number < CHARTS_MAX else None, by_day)
        for number, (currency, amounts, payments, by_day) in enumerate(unsorted)
    ]


@dataclass(frozen=True, slots=True)
class Ages:
    """Open discrepancies of one aging bucket; those without a bucket are all of them.

    informational, informational_at_risk: of those that may have an innocent cause; errors_at_risk: of the others.
    """

    bucket: str | None
    number: int
    at_risk: tuple[tuple[Decimal, str], ...]
    informational: int = 0
    informational_at_risk: tuple[tuple[Decimal, str], ...] = ()
    errors_at_risk: tuple[tuple[Decimal, str], ...] = ()


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
    risks = [
        (one.at_risk, one.informational_at_risk or Decimal(0), one.currency)
        for one in ones
        if one.at_risk is not None and one.currency
    ]
    return Ages(
        bucket,
        sum(one.number for one in ones),
        tuple((at_risk, currency) for at_risk, _, currency in risks),
        sum(one.informational for one in ones),
        tuple((innocent, currency) for _, innocent, currency in risks if innocent),
        tuple((at_risk - innocent, currency) for at_risk, innocent, currency in risks if at_risk != innocent),
    )


def last_days(clock: Clock, now: datetime, number: int) -> list[Day]:
    """Today and the days before it, in the zone of reports."""
    today = now.astimezone(clock.zone).date()
    days = [today - timedelta(days=back) for back in range(number)]
    return [Day(day, clock.midnight(day), clock.midnight(day + timedelta(days=1))) for day in days]


@dataclass(frozen=True, slots=True)
class Task:
    """Something that waits for who is signed in. address: of the list that shows it."""

    words: str
    address: str
    number: int


def _of(number: int, most: int, one: str, many: str) -> str:
    return f"more than {most:,} {many}" if number > most else f"{number:,} {one if number == 1 else many}"


def decisions_for(connection: Connection, by: Reach) -> list[Task]:
    """What waits for the approval of who is signed in, and the discrepancies that person looks after."""
    who, tasks = account(), []
    if who.may(Permission.APPROVE):
        number = overview.for_approval(connection, by, who.name)
        words = _of(number, overview.WAITING_MAX, "write-off to approve", "write-offs to approve")
        tasks.append(Task(words, url_for("discrepancies.index", approval="mine"), number))
        if by.instance_ids is None:
            above = rules_store.in_force(connection).version or 0
            proposed = rules_screen.waiting(connection, above, RULES_MAX + 1, not_by=who.name)
            where = (
                url_for("rules.version", version=proposed[0].version)
                if len(proposed) == 1
                else url_for("rules.index")
            )
            words = _of(
                len(proposed), RULES_MAX, "proposed version of the rules", "proposed versions of the rules"
            )
            tasks.append(Task(words, where, len(proposed)))
    if who.may(Permission.WORK):
        number = overview.assigned(connection, by, who.name)
        words = _of(number, overview.OPEN_MAX, "discrepancy", "discrepancies")
        tasks.append(Task(f"{words} assigned to you", url_for("discrepancies.index", owner="me"), number))
    return tasks


def blueprint(site: Site) -> Blueprint:
    """`/`, and the part of it that is looked at anew every few seconds."""
    routes = Blueprint("overview", __name__)
    sums, deliveries, answers = DaySums(), DayDeliveries(), _Answers()
    state = _Installation(site.services)
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
            open=min(every.number, overview.OPEN_MAX) - every.informational,
            is_open_cut=every.number > overview.OPEN_MAX,
            at_risk=every.errors_at_risk,
            informational=every.informational,
            informational_at_risk=every.informational_at_risk,
            waiting=min(waiting.links, overview.WAITING_MAX),
            is_waiting_cut=waiting.links > overview.WAITING_MAX,
            waiting_since=waiting.late_since,
            stalled_since=beat if beat is not None and now - beat > STALLED_AFTER else None,
            unreachable=_trouble(instances.unreachable, instances.unreachable_since),
            silent=_trouble(instances.silent, instances.silent_since),
            held=waiting.undecided,
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
            "tasks": decisions_for(connection, by),
            # The list of events is of one instance: with several, none shows just what is counted.
            "only_instance": instances.lines[0].instance_id if instances.number == 1 else None,
        }

    def operating(by: Reach, now: datetime) -> list[Task]:
        """What an operator has to look at, of what is not in the database."""
        failed, wrong = state.look(by, now)
        return [
            Task(
                "failed jobs cannot be counted: the queue does not answer"
                if failed is None
                else _of(failed, 10**9, "failed job", "failed jobs"),
                url_for("jobs.index"),
                1 if failed is None else failed,
            ),
            Task(
                f"{len(wrong)} finding{'' if len(wrong) == 1 else 's'} about this installation"
                + (f": {', '.join(one.name for one in wrong)}" if wrong else ""),
                url_for("health.index"),
                len(wrong),
            ),
        ]

    def refused(found: dict[str, Any]) -> list[Task]:
        """Deliveries of today that became no event; nothing for who does not see every instance."""
        delivered = found["delivered"]
        if delivered.rejected is None:
            return []
        return [
            Task(
                f"{_of(delivered.rejected, 10**12, 'delivery', 'deliveries')} rejected today",
                url_for("events.rejected"),
                delivered.rejected,
            ),
            Task(
                f"{_of(delivered.unread or 0, 10**12, 'delivery', 'deliveries')} unread today",
                url_for("events.unread"),
                delivered.unread or 0,
            ),
        ]

    def shown(template: str) -> str:
        by, now = reach(), site.services.now()
        operates = account().may(Permission.OPERATE)
        # Asks Redis, so before the transaction.
        mine = operating(by, now) if operates else []
        with site.read() as connection:
            found = look(connection, by, now)
        if operates:
            mine += refused(found)
        tasks = [*found.pop("tasks"), *mine]
        is_live = request.args.get("updates") != "off"
        return render_template(
            template,
            **found,
            is_live=is_live,
            brief=brief,
            every_instance=by.instance_ids is None,
            tasks=[one for one in tasks if one.number],
            has_tasks=bool(tasks),
            lists=_lists(found),
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


def _lists(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """By what a sentence is about, the address of what shows it, and words for that."""
    held_of = found["waiting"].held_of
    return {
        About.OPEN: (url_for("discrepancies.index"), "See them"),
        About.INFORMATIONAL: (url_for("discrepancies.index", severity="informational"), "See them"),
        About.CLOCK: (url_for("health.index"), "See what else is wrong"),
        About.INSTANCES: ("#instances", "See which"),
        About.HELD: (url_for("events.index", instance=held_of, status="held"), "See the events"),
        About.WAITING: (url_for("jobs.index"), "See what is due"),
    }


class _Installation:
    """Failed jobs, and what the doctor finds. It asks others than the books, so some of it is kept for a while."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._found: list[Finding] = []
        self._found_until: datetime | None = None

    def look(self, by: Reach, now: datetime) -> tuple[int | None, list[Finding]]:
        """How many jobs failed, None when the queue does not say; and what is wrong, as far as one may know of it."""
        if self._found_until is None or now >= self._found_until:
            self._found, self._found_until = looked_at(self._services), now + FINDINGS_FOR
        wrong = [one for one in self._found if one.is_ok is not True]
        if by.instance_ids is not None:
            wrong = [one for one in wrong if one.name in OF_NO_INSTANCE]
        redis = self._services.queue.redis
        # What does not answer is asked again when the findings are, not at each look.
        if redis is None or any(one.name == "redis" for one in wrong):
            return None, wrong
        try:
            return queues.failed_count(redis, by), wrong
        except RedisError:
            return None, wrong


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
