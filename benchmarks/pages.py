"""What each page costs with a million payments, beside the same page of empty books, in turns.

    .venv/bin/python -m benchmarks --only pages [--quick]

Two databases of one PostgreSQL: one of a year of books (`benchmarks.pages_books`), one with an app instance to which
nothing happened. Each page is asked for in turns of both, by an auditor who sees everything, in this process: time is
from the request to the last byte of the page, with the database and the template, without a network. Beside it stands
a page that shows next to nothing (`/account`). The list of payment links is what we hold of them: Wix is not asked.

The goal is of every look at a page: lists, filters, details, reports, sums. A page reads a report, or adds up all
payments, for PAGE_READ_SECONDS itself; what takes longer a worker reads while the page looks again. So such a page is
measured three times: when it is asked for, while it waits, and when it is there; the slowest counts. How long the
worker took is shown beside, and is what a person waits.

At last, what the indexes of lists and reports cost whoever books a payment: the same payments inserted with and without
them, in turns, and rolled back. It is PostgreSQL's time alone; a webhook does more than that.
"""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote, urlsplit
from uuid import UUID

import psycopg
from flask.testing import FlaskClient
from psycopg import sql
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks import machine, pages_books
from benchmarks.large_link import new_database
from benchmarks.pretend import PROCESSOR
from processor import embedded, jobs, wiring
from processor.config import Settings
from processor.domain.access import EVERYWHERE, Role
from processor.queue import QUEUE
from processor.store import accounts
from processor.store.screens.keyset import Position
from processor.web.pages import create_pages
from processor.web.pages.access import digest

PLAIN = "/account"
WAITS = 'hx-trigger="every 1s"'  # in a page that looks again
TIMES_MOST = 5.0  # what an empty page costs, the slowest may
INSERTED, TOGETHER = 20_000, 50  # payments, and how many by one statement, as commits of webhooks gather them
REPORTS_ONLY = ("ix_payments_reported", "ix_payments_polled")
LISTS_ONLY = (
    *("ix_payments_of_instance", "ix_payments_recovered", "ix_payments_undated"),
    "ix_payments_by_amount",
)


@dataclass(frozen=True, slots=True)
class Options:
    """payments: how many there are. rounds: of every page, after one that is not counted."""

    payments: int = 1_000_000
    rounds: int = 15


@dataclass(frozen=True, slots=True)
class Case:
    """A page. path: with names in braces for ids of the filled books. empty: what is asked for of the empty books, None
    for the same. is_on_request: it adds up what it is asked to, however much.
    """

    screen: str
    what: str
    path: str
    empty: str | None = None
    is_on_request: bool = False


class Mismatch(Exception):
    """A page is not there, or shows nothing where there is something."""


CASES = (
    Case("overview", "as it comes", "/"),
    Case("overview", "its part that is looked at anew", "/overview/now"),
    Case("payments", "newest first", "/payments"),
    Case("payments", "oldest first", "/payments?order=oldest"),
    Case("payments", "a page far behind", "/payments?at={payments_at}", "/payments"),
    Case("payments", "largest first, of a currency", "/payments?currency=EUR&order=largest"),
    Case(
        "payments",
        "largest first, a page far behind",
        "/payments?currency=EUR&order=largest&at={amounts_at}",
        "/payments?currency=EUR&order=largest",
    ),
    Case(
        "payments", "largest first, of a day", "/payments?currency=EUR&order=largest&since={day}&until={day}"
    ),
    Case(
        "payments",
        "largest first, of a month",
        "/payments?currency=EUR&order=largest&since={month}&until={day}",
    ),
    Case("payments", "smallest first, that differ", "/payments?currency=EUR&order=smallest&state=discrepant"),
    Case(
        "payments",
        "largest first, of a link paid all the time",
        "/payments?currency=EUR&order=largest&link={busy_link}",
    ),
    Case("payments", "of a large instance", "/payments?instance={large}", "/payments?instance={own}"),
    Case("payments", "of a small instance", "/payments?instance={small}", "/payments?instance={own}"),
    Case("payments", "of a link paid all the time", "/payments?link={busy_link}"),
    Case("payments", "of a currency", "/payments?currency=JPY"),
    Case("payments", "of a currency that none has", "/payments?currency=CHF"),
    Case("payments", "that differ", "/payments?state=discrepant"),
    Case("payments", "not checked yet", "/payments?state=unchecked"),
    Case("payments", "missed by webhooks", "/payments?recovery=any"),
    Case("payments", "of a day", "/payments?since={day}&until={day}"),
    Case("payments", "of a type in a span", "/payments?type=GIFT_CARD&since={month}&until={day}"),
    Case("payments", "of no date", "/payments?undated=1"),
    Case("payments", "of amounts", "/payments?amount_from=1000.99&amount_to=1000.99"),
    Case("payments", "by the beginning of an id", "/payments?text={prefix}"),
    Case("payments", "by the title of a link", "/payments?text=lamps"),
    Case("payments", "by words that nothing has", "/payments?text=nothing+such"),
    Case("payments", "added up, as far as the page does", "/payments?totals=1"),
    Case("payments", "all added up", "/payments?totals=all", is_on_request=True),
    Case("payments", "one payment", "/payments/{payment}", PLAIN),
    Case("links", "as we hold them", "/links?instance={large}", "/links?instance={own}"),
    Case("links", "one link", "/links/{busy}", PLAIN),
    Case("links", "one link, all added up", "/links/{busy}?totals=all", PLAIN, is_on_request=True),
    Case("discrepancies", "what needs a decision", "/discrepancies"),
    Case("discrepancies", "a page far behind", "/discrepancies?at={queue_at}", "/discrepancies"),
    Case("discrepancies", "of a type", "/discrepancies?type=missing_at_wix"),
    Case("discrepancies", "of a type that there is none of", "/discrepancies?type=over_limit"),
    Case("discrepancies", "of an owner", "/discrepancies?owner=maya"),
    Case("discrepancies", "of an age", "/discrepancies?aging=31-to-60-days"),
    Case("discrepancies", "of amounts", "/discrepancies?amount_from=1000.99"),
    Case("discrepancies", "of a small instance", "/discrepancies?instance={small}", "/discrepancies"),
    Case("discrepancies", "that wait for approval", "/discrepancies?approval=any"),
    Case("discrepancies", "closed", "/discrepancies?state=closed"),
    Case(
        "discrepancies",
        "closed, of a type that there is none of",
        "/discrepancies?state=closed&type=over_limit",
    ),
    Case("discrepancies", "in any state, of a link", "/discrepancies?state=any&link={busy_link}"),
    Case("discrepancies", "all added up", "/discrepancies?totals=all", is_on_request=True),
    Case("discrepancies", "one discrepancy", "/discrepancies/{discrepancy}", PLAIN),
    Case("events", "newest first", "/events?instance={large}", "/events?instance={own}"),
    Case(
        "events",
        "that could not be read",
        "/events?instance={large}&status=unreadable",
        "/events?instance={own}",
    ),
    Case("events", "of a payment", "/events?instance={large}&entity={payment_id}", "/events?instance={own}"),
    Case(
        "events",
        "of a type that there is none of",
        "/events?instance={large}&type=nothing",
        "/events?instance={own}",
    ),
    Case("events", "one event", "/events/{event}", PLAIN),
    Case("runs", "newest first", "/runs?instance={large}", "/runs?instance={own}"),
    Case("runs", "that failed", "/runs?instance={large}&status=failed", "/runs?instance={own}"),
    Case("runs", "one run", "/runs/{run}", PLAIN),
    Case("jobs", "as it comes", "/jobs"),
    Case("rules", "as it comes", "/rules"),
    Case("health", "as it comes", "/health"),
    Case("audit", "newest first", "/audit"),
    Case("reports", "which there are", "/reports"),
)
REPORTS = (
    *("payments", "reconciliation_summary", "missed_webhooks", "duplicates", "out_of_order", "completeness"),
    *("roll_forward", "silences", "resolutions", "write_offs", "runs"),
)


def reports(names: Mapping[str, str]) -> Iterator[Case]:
    """Every report, of a day and of a month; of those that may be without days, all."""
    for view in REPORTS:
        for what, since in (("of a day", names["day"]), ("of 30 days", names["month"])):
            path = f"/reports/{view}?since={since}&until={names['day']}"
            yield Case("reports", f"{view}, {what}", path, is_on_request=True)
    for view in ("open_items", "control_totals"):
        yield Case("reports", f"{view}, all", f"/reports/{view}?since=&until=", is_on_request=True)


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Fill, then every page; tells each. Raises Mismatch."""
    began = time.monotonic()
    with machine.start_servers(folder / "servers") as servers, ExitStack() as stack:
        full, empty = (_migrated(servers, name) for name in ("pages_full", "pages_empty"))
        now = datetime.now(UTC)
        with psycopg.connect(full, autocommit=True) as connection:
            held = pages_books.fill(connection, options.payments, now)
            names = names_of(connection, now)
        with psycopg.connect(empty, autocommit=True) as connection:
            names["own"] = pages_books.one_instance(connection, now)
        print(
            f"\nPages: {', '.join(f'{number:,} {what}' for what, number in held.items())}; filled in"
            f" {time.monotonic() - began:.0f} s. {options.rounds} rounds.",
            flush=True,
        )
        both = [
            stack.enter_context(_signed_in(servers, name, number))
            for number, name in enumerate(("pages_full", "pages_empty"))
        ]
        lines = [_measured(case, both, names, options.rounds) for case in (*CASES, *reports(names))]
        with psycopg.connect(full, autocommit=True) as connection:
            inserting = _inserting(connection)
    found = {
        "settings": asdict(options),
        "held": held,
        "pages": lines,
        "inserting": inserting,
        **summed(lines),
    }
    print(table(found))
    return found


def _inserting(connection: psycopg.Connection) -> dict[str, Any]:
    """Milliseconds for a thousand payments, the median, by what is left out; and the ratios to with everything."""
    connection.execute(
        "CREATE TEMPORARY TABLE more AS SELECT *, row_number() OVER () AS number FROM"
        " (SELECT * FROM payments WHERE created_at IS NOT NULL ORDER BY created_at DESC LIMIT %s) p",
        [INSERTED],
    )
    connection.execute("UPDATE more SET payment_id = gen_random_uuid()")
    connection.execute("CREATE UNIQUE INDEX ON more (number)")
    columns = connection.execute(
        "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'payments'::regclass AND attnum > 0 AND NOT attisdropped"
    ).fetchone()
    assert columns is not None
    insert = sql.SQL(
        "INSERT INTO payments ({0}) SELECT {0} FROM more WHERE number > %s AND number <= %s"
    ).format(sql.SQL(columns[0]))
    left_out = {
        "with all indexes": (),
        "without those of reports": REPORTS_ONLY,
        "without those of lists and reports": (*REPORTS_ONLY, *LISTS_ONLY),
    }
    took: dict[str, list[float]] = {what: [] for what in left_out}
    for number in range(6):
        for what in [*left_out][:: 1 if number % 2 == 0 else -1]:
            with connection.transaction(force_rollback=True):
                for index in left_out[what]:
                    connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(index)))
                began = time.perf_counter()
                for first in range(0, INSERTED, TOGETHER):
                    connection.execute(insert, [first, first + TOGETHER])
                seconds = time.perf_counter() - began
            if number:  # the first warms
                took[what].append(seconds)
    whole, *others = left_out
    found: dict[str, Any] = {
        what: {"ms_per_1000": round(statistics.median(each) / INSERTED * 1_000_000, 2)}
        for what, each in took.items()
    }
    for what in others:
        ratios = [a / b for a, b in zip(took[whole], took[what], strict=True)]
        found[what]["times"] = {
            "median": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        }
        print(
            f"  Inserting payments with all indexes: {found[what]['times']['median']:.2f} times"
            f" ({min(ratios):.2f}-{max(ratios):.2f}) as long as {what}.",
            flush=True,
        )
    return found


def summed(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The slowest of the pages the goal is of, and how many of how many keep it."""
    slowest = max(lines, key=lambda one: one["times"])
    return {
        "slowest": slowest,
        "kept": sum(one["times"] <= TIMES_MOST for one in lines),
        "judged": len(lines),
        "longest_work": max(
            (one for one in lines if one["work_ms"] is not None), key=lambda one: one["work_ms"], default=None
        ),
    }


def table(found: Mapping[str, Any]) -> str:
    """For a terminal and Markdown alike."""
    rows = [
        f"| {one['screen']}: {one['what']} | {one['ms']:.1f} | {one['empty_ms']:.1f} | {one['times']:.1f}"
        f" | {_verdict(one)} | {'' if one['work_ms'] is None else format(one['work_ms'], ',.0f')} |"
        for one in found["pages"]
    ]
    return "\n".join(
        [
            "| page | ms | ms, empty | times | at most 5 times | ms of a worker |",
            "| --- | ---: | ---: | ---: | --- | ---: |",
            *rows,
        ]
    )


def _verdict(one: Mapping[str, Any]) -> str:
    return "yes" if one["times"] <= TIMES_MOST else "NO"


@dataclass(frozen=True, slots=True)
class Browser:
    """Somebody who looks at one of the two books, and the parts behind, which work for a worker as well."""

    client: FlaskClient
    services: wiring.Services

    def get(self, path: str, *, is_on_request: bool) -> tuple[float, float | None]:
        """Seconds of the page, the slowest answer of those it takes; and of a worker, None when none was asked.

        Raises Mismatch.
        """
        if is_on_request:
            # So that what was read in the round before is no answer.
            path += f"{'&' if '?' in path else '?'}after={quote(datetime.now(UTC).isoformat())}"
        first, is_waiting = self._timed(path)
        if not is_waiting:
            return first, None
        while_it_waits, _ = self._timed(path)
        worked = self._work()
        there, is_waiting = self._timed(path)
        if is_waiting:
            raise Mismatch(f"{path} waits for what was read")
        return max(first, while_it_waits, there), worked

    def _timed(self, path: str) -> tuple[float, bool]:
        began = time.perf_counter()
        answer = self.client.get(path)
        text = answer.get_data(as_text=True)
        seconds = time.perf_counter() - began
        if answer.status_code != 200:
            raise Mismatch(f"{path} answered {answer.status_code}")
        return seconds, WAITS in text

    def _work(self) -> float:
        """Do what the page left for a worker; the seconds that takes. Raises Mismatch."""
        redis = self.services.queue.redis
        assert redis is not None
        queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
        waiting = queue.jobs
        if len(waiting) != 1:
            raise Mismatch(f"{len(waiting)} jobs wait for a worker")
        began = time.perf_counter()
        jobs.run_prepare(self.services, waiting[0].args[0])
        seconds = time.perf_counter() - began
        waiting[0].delete()
        return seconds


def _measured(case: Case, both: Sequence[Browser], names: Mapping[str, str], rounds: int) -> dict[str, Any]:
    path = case.path.format(**names)
    paths = (path, (case.empty or case.path).format(**names), PLAIN)
    browsers = (both[0], both[1], both[1])
    took: tuple[list[float], ...] = ([], [], [])
    worked: list[float] = []
    for number in range(-1, rounds):
        # In turns, so that what else the machine does meets each alike.
        for place in range(3):
            is_on_request = case.is_on_request and place != 2
            seconds, work = browsers[place].get(paths[place], is_on_request=is_on_request)
            if number >= 0:
                took[place].append(seconds * 1000)
                if place == 0 and work is not None:
                    worked.append(work * 1000)
    full, empty, plain = (statistics.median(one) for one in took)
    ratios = [a / b for a, b in zip(took[0], took[1], strict=True)]
    line = {
        **asdict(case),
        "path": case.path,
        "ms": round(full, 2),
        "empty_ms": round(empty, 2),
        "plain_ms": round(plain, 2),
        "times": round(statistics.median(ratios), 2),
        "work_ms": round(statistics.median(worked), 1) if worked else None,
    }
    print(
        f"  {case.screen + ': ' + case.what:<58}{full:>8.1f} ms {empty:>8.1f} ms {line['times']:>7.1f} x"
        + (f"; a worker {line['work_ms']:,.0f} ms" if worked else ""),
        flush=True,
    )
    return line


def _migrated(servers: embedded.Servers, name: str) -> str:
    url = new_database(servers, name)
    subprocess.run(
        [*PROCESSOR, "migrate"], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"DATABASE_URL": url}
    )
    return url


@contextmanager
def _signed_in(servers: embedded.Servers, database: str, number: int) -> Iterator[Browser]:
    """The pages over a database, and an auditor's browser. number: of the database of Redis."""
    environ = {
        "DATABASE_URL": servers.postgres.url_of(database),
        "REDIS_URL": urlsplit(servers.redis_url)._replace(path=f"/{number}").geturl(),
        "SECRET_KEY": secrets.token_urlsafe(32),
        "SECURE_COOKIES": "0",
        "LOG_LEVEL": "ERROR",
    }
    services = wiring.build(Settings.read(environ), role="pages")
    try:
        token = secrets.token_urlsafe(32)
        with services.database.begin() as connection:
            now = services.now()
            account_id = accounts.add(
                connection,
                "auditor",
                [Role.AUDITOR],
                reach=EVERYWHERE,
                sees_personal=False,
                password_hash=None,
                oidc_subject=None,
                now=now,
            )
            accounts.begin_session(connection, account_id, digest(token), now)
        client = create_pages(services).test_client()
        with client.session_transaction() as session:
            session["session_token"] = token
        yield Browser(client, services)
    finally:
        services.close()


def names_of(connection: psycopg.Connection, now: datetime) -> dict[str, str]:
    """What the paths of CASES name."""

    large, busy = pages_books.instance_id(0), pages_books.link_id(0)

    def one(statement: LiteralString) -> tuple[Any, ...]:
        row = connection.execute(statement, {"large": large}).fetchone()
        if row is None:
            raise Mismatch(f"the books lack something: {statement}")
        return row

    payment = one("SELECT payment_id, created_at FROM payments WHERE instance_id = %(large)s LIMIT 1")
    event = one("SELECT event_id FROM webhook_events WHERE instance_id = %(large)s LIMIT 1")
    run_ = one("SELECT run_id FROM reconciliation_runs WHERE instance_id = %(large)s LIMIT 1")
    differs = one("SELECT instance_id, discrepancy_id FROM discrepancies WHERE closed_at IS NULL LIMIT 1")
    middle = now - timedelta(days=180)
    amount = one("SELECT avg(amount) FROM (SELECT amount FROM payments WHERE currency = 'EUR' LIMIT 10000) p")
    return {
        "payments_at": Position((middle, UUID(large), payment[0])).text(),
        "amounts_at": Position((round(amount[0], 3), middle, UUID(large), payment[0])).text(),
        "queue_at": Position((middle, differs[1])).text(),
        "large": large,
        "small": pages_books.instance_id(3),
        "busy_link": busy,
        "busy": f"{large}/{busy}",
        "payment_id": str(payment[0]),
        "payment": f"{large}/{payment[0]}",
        "prefix": str(payment[0])[:8],
        "event": f"{large}/{event[0]}",
        "run": f"{large}/{run_[0]}",
        "discrepancy": f"{differs[0]}/{differs[1]}",
        "day": f"{now - timedelta(days=1):%Y-%m-%d}",
        "month": f"{now - timedelta(days=30):%Y-%m-%d}",
    }
