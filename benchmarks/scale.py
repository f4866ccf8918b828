"""Whether intake is as quick with years of events stored as on empty tables, and which indexes earn their keep.

    .venv/bin/python -m benchmarks --only scale [--rows 10000000]

One PostgreSQL with two migrated databases: one with empty tables, one filled by SQL. Both take the same new events in
turns, of the same sites and links as what is stored, so that every index is entered anywhere in its breadth. Then the
application's own functions are run over the filled one (`benchmarks.reads`).
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from benchmarks import machine, reads, tokens
from benchmarks.designs import DESIGNS, OURS, Books
from benchmarks.intake import Bench, Load, Point, opened, spread
from processor import wiring
from processor.config import Settings
from processor.store import evidence

CONNECTIONS = 64
DATABASE = "bench_full"
# More than the machines seen take; whoever takes them all ends the point early.
TOKENS_PER_SECOND = 5_000
CHUNK = 100_000  # rows of one statement
LINKS_MORE = 4  # links beside each of the new events, which have fewer
PERIOD = timedelta(days=365)
# The last of the year is written with keys and indexes in place, as traffic does it: so their pages are in memory, as
# in a server that runs, and not on the disk only, where building them leaves them.
WARMING_SHARE = 0.03
COLD_ROUNDS = 1  # measured before that
DUE_LINKS = 500
HELD_EVENTS = 1_000
# As seen: events, payments, buyers and short tokens with their indexes take 1.6 kB together.
BYTES_PER_ROW = 2_000
BYTES_BESIDE = 12 * 2**30  # the log, what the build of indexes needs, and other sections
FILLED = ("webhook_events", "payments", "payment_buyers", "payment_versions")

FULL = Books(
    database=DATABASE,
    schema=None,
    stored="""
        SELECT e.event_id, p.payment_id FROM webhook_events e
        LEFT JOIN payments p ON p.instance_id = e.instance_id AND p.payment_id = e.entity_id
        WHERE e.instance_id = ANY(%(sites)s) AND e.received_at >= %(since)s""",
    unasked="""
        SELECT count(*) FROM webhook_events e
        WHERE e.instance_id = ANY(%(sites)s) AND e.received_at >= %(since)s AND NOT EXISTS (
            SELECT FROM check_requests c
            WHERE c.instance_id = e.instance_id AND c.payment_link_id = e.payment_link_id)""",
    emptied=("check_requests",),
)

# One chunk of history: a fiftieth of the payments was told of twice, as many events came twice.
FILL = """
WITH rolled AS MATERIALIZED (
    SELECT i, gen_random_uuid() AS event_id, gen_random_uuid() AS second_id, gen_random_uuid() AS payment_id,
        gen_random_uuid() AS order_id, floor(%(links)s * power(random(), %(skew)s))::int AS place,
        (1 + floor(random() * 99999))::numeric / 100 AS amount, i %% 50 = 1 AS is_twice,
        %(since)s::timestamptz + i::float8 / %(rows)s * %(period)s::interval AS at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i
), made AS MATERIALIZED (
    SELECT r.*, l.instance_id, l.payment_link_id, sha256(uuid_send(r.event_id)) AS digest,
        CASE WHEN i %% 50 = 0 OR i %% 10000 = 7 THEN 2 ELSE 1 END AS deliveries,
        CASE WHEN i %% 10000 = 7 THEN 1 ELSE 0 END AS conflicts
    FROM rolled r JOIN filled_links l ON l.number = r.place
    ORDER BY i
), told AS MATERIALIZED (
    SELECT event_id, at, 'created' AS slug, deliveries, conflicts, instance_id, payment_id, payment_link_id, digest, i
    FROM made
    UNION ALL
    SELECT second_id, at + interval '2 seconds', 'updated', 1, 0, instance_id, payment_id, payment_link_id,
        sha256(uuid_send(second_id)), i FROM made WHERE is_twice
), kept AS (
    INSERT INTO webhook_events (instance_id, event_id, event_type, kind, slug, entity_id, entity_sequence,
        payment_link_id, occurred_at, issued_at, received_at, last_received_at, delivery_count, conflict_count,
        status, is_anonymization, content_digest, token_digest)
    SELECT instance_id, event_id, 'wix.paymentlinks.payments.v1.payment_link_payment_' || slug, 'payment', slug,
        payment_id, 1, payment_link_id, at - interval '1 second', at, at,
        CASE WHEN deliveries > 1 THEN at + interval '1 minute' ELSE at END, deliveries, conflicts,
        'recorded', false, digest, digest
    FROM told ORDER BY i
), evidence AS (
    INSERT INTO webhook_event_tokens (instance_id, event_id, received_at, token)
    SELECT instance_id, event_id, at, 'filled.' || encode(digest, 'hex') FROM told ORDER BY i
), paid AS (
    INSERT INTO payments (instance_id, payment_id, revision, first_origin, origin, event_id, stored_at, changed_at,
        last_verdict, last_told_at, match_state, matched_at, payment_link_id, amount, currency, type, created_at,
        transaction_at, receipt_id, ecom_checkout_id, ecom_order_id, method, payment_method, payment_provider)
    SELECT instance_id, payment_id, CASE WHEN is_twice THEN 2 ELSE 1 END, 'webhook', 'webhook',
        CASE WHEN is_twice THEN second_id ELSE event_id END, at, at, CASE WHEN is_twice THEN 'newer' ELSE 'new' END,
        at, 'matched', at + interval '1 minute', payment_link_id, amount, 'USD', 'REGULAR', at - interval '2 seconds',
        at - interval '2 seconds', order_id, order_id::text, order_id::text, 'CREDIT_CARD', 'creditCard',
        'Credit/Debit Cards'
    FROM made ORDER BY i
), buyers AS (
    INSERT INTO payment_buyers (instance_id, payment_id, revision, personal, stored_at)
    SELECT instance_id, payment_id, CASE WHEN is_twice THEN 2 ELSE 1 END, jsonb_build_object('contactDetails',
        jsonb_build_object('fullName', 'Ana María Núñez', 'email', 'buyer' || i || '@example.com', 'phone', '+1' || i)),
        at
    FROM made ORDER BY i
)
INSERT INTO payment_versions (instance_id, payment_id, revision, verdict, origin, event_id, told_at, payment_link_id,
    amount, currency, type)
SELECT instance_id, payment_id, v.revision, v.verdict, 'webhook',
    CASE v.revision WHEN 1 THEN event_id ELSE second_id END, at, payment_link_id, amount, 'USD', 'REGULAR'
FROM made CROSS JOIN (VALUES (1, 'new'), (2, 'newer')) AS v (revision, verdict)
WHERE is_twice ORDER BY i, v.revision
"""
# What hangs on it: links as Wix described them, their checks, runs, and differences of which a few are open.
BESIDE = (
    """INSERT INTO payment_links (instance_id, payment_link_id, revision, title, currency, type, status,
           payment_count, total_amount, created_at, seen_at)
       SELECT instance_id, payment_link_id, 1, 'Filled', 'USD', 'ECOM', 'ACTIVE', count(*), sum(amount),
           min(created_at) - interval '1 day', max(stored_at)
       FROM payments GROUP BY instance_id, payment_link_id""",
    """INSERT INTO link_checks (instance_id, payment_link_id, wanted, checked, due_at, last_checked_at)
       SELECT instance_id, payment_link_id, payment_count + is_due, payment_count,
           CASE is_due WHEN 1 THEN now() END, seen_at
       FROM (SELECT *, CASE WHEN row_number() OVER (ORDER BY payment_link_id) <= %(due)s THEN 1 ELSE 0 END AS is_due
           FROM payment_links) AS l""",
    """INSERT INTO sweeps (instance_id, due_at, swept_to, finished_at)
       SELECT instance_id, now(), now() - interval '15 minutes', now() - interval '15 minutes' FROM app_instances""",
    """INSERT INTO reconciliation_runs (run_id, instance_id, kind, status, started_at, finished_at, code_version)
       SELECT gen_random_uuid(), a.instance_id, 'check', 'succeeded', at, at, 'filled'
       FROM app_instances a CROSS JOIN
           generate_series(now() - interval '365 days', now() - interval '1 hour', interval '2 hours') AS at""",
    """INSERT INTO discrepancies (discrepancy_id, instance_id, type, severity, state, payment_link_id, payment_id,
           sides, first_seen_at, last_seen_at, first_run_id, last_run_id, closed_at, resolution)
       SELECT gen_random_uuid(), p.instance_id, 'amount_differs', 'error',
           CASE WHEN number > 100 THEN 'resolved' ELSE 'open' END, p.payment_link_id, p.payment_id, '{}',
           p.stored_at, p.stored_at, r.run_id, r.run_id, CASE WHEN number > 100 THEN now() END,
           CASE WHEN number > 100 THEN 'no longer differs' END
       FROM (SELECT *, row_number() OVER () AS number FROM payments LIMIT 2000) AS p
       CROSS JOIN LATERAL (SELECT run_id FROM reconciliation_runs r
           WHERE r.instance_id = p.instance_id LIMIT 1) AS r""",
    """INSERT INTO webhook_event_conflicts (instance_id, event_id, content_digest, token_digest, token, received_at,
           last_received_at)
       SELECT instance_id, event_id, sha256(content_digest), sha256(content_digest), 'filled', last_received_at,
           last_received_at
       FROM webhook_events WHERE conflict_count > 0""",
)
HELD = """
WITH unknown AS (
    INSERT INTO app_instances (instance_id) VALUES (gen_random_uuid()) RETURNING instance_id
)
INSERT INTO webhook_events (instance_id, event_id, event_type, kind, slug, entity_id, payment_link_id, received_at,
    last_received_at, status, is_anonymization, content_digest, token_digest)
SELECT instance_id, gen_random_uuid(), 'wix.paymentlinks.payments.v1.payment_link_payment_created', 'payment',
    'created', gen_random_uuid(), gen_random_uuid(), at, at, 'held', false, sha256(''), sha256('')
FROM unknown CROSS JOIN (SELECT now() - interval '1 day' AS at) AS t CROSS JOIN generate_series(1, %(held)s)
"""


class NoRoom(Exception):
    """The disk cannot hold what was asked for."""


@dataclass(frozen=True, slots=True)
class Options:
    """rows: events stored before, each with its payment, buyer and token."""

    rows: int = 1_000_000
    rounds: int = 4
    seconds: float = 5.0
    warm_up: float = 1.0
    seed: int = 1


def need_room(folder: Path, rows: int) -> None:
    """Raises NoRoom."""
    free, needed = shutil.disk_usage(folder).free, rows * BYTES_PER_ROW + BYTES_BESIDE
    if free < needed:
        raise NoRoom(
            f"{rows:,} stored events need {needed / 2**30:.0f} GB of disk for a while, and {free / 2**30:.0f} GB are"
            " free in the temporary folder: choose fewer --rows, or set TMPDIR to a folder on a larger disk"
        )


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Fill, every round, every read; tells what came of it, and returns it for a file. Raises Mismatch, NoRoom."""
    need_room(folder, options.rows)
    warm = int(TOKENS_PER_SECOND * options.warm_up)
    each = int(TOKENS_PER_SECOND * options.seconds)
    count = warm + each * (COLD_ROUNDS + options.rounds)
    print(
        f"\nAt scale: {options.rows:,} events stored against empty tables, {CONNECTIONS} connections, closed loop,"
        f" {options.rounds} rounds of {options.seconds:g} s.\nSigning {count:,} events (seed {options.seed}).",
        flush=True,
    )
    made = tokens.make(folder / "bodies", count, seed=options.seed, duplicates=0)
    [empty] = [design for design in DESIGNS if design.name == "ours"]
    full = replace(empty, name="ours_filled", books=FULL)
    scans: Counter[str] = Counter()

    def measured(numbers: range) -> list[Point]:
        points: list[Point] = []
        for number in numbers:
            bodies = (warm + number * each, warm + (number + 1) * each)
            for design in (empty, full)[:: 1 if number % 2 == 0 else -1]:
                point = bench.measure(
                    *(design, Load(CONNECTIONS, None), number + 1),
                    bodies=bodies,
                    warm_bodies=(0, warm),
                    around=nullcontext if design is empty else partial(_counted, url, scans),
                )
                points.append(point)
                print(
                    f"  round {point.round}  {'empty' if design is empty else 'filled':<7}"
                    f" {point.per_second:>7,.0f}/s  p50 {point.client['p50_ms']:>7.1f} ms  p99"
                    f" {point.client['p99_ms']:>8.1f} ms  {(point.wal_bytes or 0) / 1024:>6.1f} kB of log for each"
                    f"  {point.stored:>6,} stored; {point.refused} not 200",
                    flush=True,
                )
        return points

    def told(points: Sequence[Point], when: str) -> dict[str, float]:
        found = ratio(points, full.name, empty.name)
        assert found is not None
        print(
            f"With {options.rows:,} stored, {when}: {found['median']:.2f} ({found['least']:.2f}-{found['most']:.2f}) of"
            " the events a second on empty tables.",
            flush=True,
        )
        return found

    with opened(folder, made, seconds=options.seconds, warm_up=options.warm_up, is_flushed=False) as bench:
        url = bench.servers.postgres.url_of(DATABASE)
        fill(bench, options)
        cold = measured(range(COLD_ROUNDS))
        found_cold = told(cold, "its indexes not in memory yet, as after a restart")
        filled = fill_on(bench, options)
        points = measured(range(COLD_ROUNDS, COLD_ROUNDS + options.rounds))
        found = told(points, "as a server that runs")
        print(
            "Both begin with a checkpoint, after which each page is written to the log as a whole when it is first"
            " changed:\na filled database has more pages to change."
        )
        looked = reads.run(_services(bench, made.public_key), url, scans)
    return {
        "settings": asdict(options) | {"connections": CONNECTIONS},
        "filled": filled,
        "ratio": found,
        "ratio_cold": found_cold,
        "points": [asdict(point) for point in points],
        "points_cold": [asdict(point) for point in cold],
        **looked,
    }


@contextmanager
def _counted(url: str, scans: Counter[str]) -> Iterator[None]:
    """Add how often each index is scanned meanwhile, but for the last second, which is not told yet."""
    with psycopg.connect(url, autocommit=True) as connection:
        before = reads.scans(connection)
        yield
        after = reads.scans(connection)
    for (table, index), one in after.items():
        scans[index] += one[0] - before.get((table, index), one)[0]


def ratio(points: Sequence[Point], one: str, other: str) -> dict[str, float] | None:
    """Events a second of one design over those of another, round by round."""
    by_round = {point.round: point.per_second for point in points if point.design == other}
    return spread(
        point.per_second / by_round[point.round]
        for point in points
        if point.design == one and by_round.get(point.round)
    )


def _services(bench: Bench, public_key: str) -> wiring.Services:
    environ = {
        "DATABASE_URL": bench.servers.postgres.url_of(DATABASE),
        "REDIS_URL": bench.servers.redis_url,
        "WIX_PUBLIC_KEYS": public_key,
    }
    return wiring.build(Settings.read(environ), role="worker")


# -- Filling -----------------------------------------------------------------------------------------


def fill(bench: Bench, options: Options) -> None:
    """A year of history but its end in a database of its own, vacuumed and analysed."""
    began = time.monotonic()
    print(
        f"  Filling {options.rows:,} rows. Tokens of filled rows have 71 bytes instead of"
        f" {bench.tokens.mean_bytes:,.0f}, and buyers a contact only, so that it fits the disk. Keys and indexes are"
        f" built after it, as packed as they come; the last {WARMING_SHARE:.0%} are written after them.",
        flush=True,
    )
    postgres = bench.servers.postgres
    _admin(bench, f"CREATE DATABASE {DATABASE} TEMPLATE {OURS.database}")
    _make_months(bench)
    # What makes filling quick is taken back before anything is measured.
    hasty = {"full_page_writes": "off", "autovacuum": "off", "checkpoint_timeout": "30min"}
    _admin(bench, *(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in hasty.items()), RELOAD)
    try:
        with _hasty(postgres.url_of(DATABASE)) as connection:
            _fill(connection, bench.tokens, options)
    finally:
        _admin(bench, *(f"ALTER SYSTEM RESET {name}" for name in hasty), RELOAD)
    with psycopg.connect(postgres.url_of(DATABASE), autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
        [writes] = connection.execute("SELECT current_setting('full_page_writes')").fetchall()
    if writes[0] != "on":
        raise SystemExit("PostgreSQL still writes no full pages: nothing would be measured")
    print(f"  Filled in {time.monotonic() - began:.0f} s.", flush=True)


def fill_on(bench: Bench, options: Options) -> dict[str, Any]:
    """The end of the year, and what hangs on it all. Returns what there is."""
    began = time.monotonic()
    url = bench.servers.postgres.url_of(DATABASE)
    with _hasty(url) as connection:
        _fill_rows(connection, options, _warming_row(options), options.rows)
        connection.execute("DROP TABLE filled_links")
        connection.execute("ANALYZE")
        for statement in BESIDE:
            connection.execute(statement, {"due": DUE_LINKS} if "%(due)s" in statement else None)
        connection.execute(HELD, {"held": HELD_EVENTS})
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
        connection.execute("SELECT pg_stat_reset()")
        found = connection.execute(
            "SELECT (SELECT count(*) FROM webhook_events), (SELECT count(*) FROM payments),"
            " pg_database_size(current_database()), current_setting('max_wal_size'), current_setting('shared_buffers')"
        ).fetchone()
    assert found is not None
    print(
        f"  Filled {found[0]:,} events and {found[1]:,} payments of {len(bench.tokens.sites)} sites, the last of them"
        f" in {time.monotonic() - began:.0f} s: {found[2] / 2**30:.1f} GB. PostgreSQL: max_wal_size {found[3]},"
        f" shared_buffers {found[4]}.",
        flush=True,
    )
    return {
        "rows": found[0],
        "payments": found[1],
        "bytes": found[2],
        "shared_buffers": found[4],
        "fdatasync_ms": machine.fdatasync_ms(bench.folder),
    }


@contextmanager
def _hasty(url: str) -> Iterator[psycopg.Connection]:
    """A connection for filling."""
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in (
            "synchronous_commit = off",
            "maintenance_work_mem = '1GB'",
            "work_mem = '256MB'",
            "jit = off",
        ):
            connection.execute(f"SET {setting}")
        yield connection


RELOAD = "SELECT pg_reload_conf()"


def _admin(bench: Bench, *statements: str) -> None:
    with psycopg.connect(bench.servers.postgres.url_of("postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def _make_months(bench: Bench) -> None:
    services = _services(bench, bench.tokens.public_key)
    now = datetime.now(UTC)
    try:
        month = evidence.month_of(now - PERIOD - timedelta(days=31))
        while month <= now:
            with services.database.begin() as connection:
                evidence.ensure_months(connection, month)
            month = evidence.month_after(month)
    finally:
        services.close()


def _fill(connection: psycopg.Connection, made: tokens.Tokens, options: Options) -> None:
    connection.execute("SELECT setseed(%s)", [options.seed % 1_000 / 1_000])
    connection.execute(
        "INSERT INTO app_instances (instance_id, first_seen_at, installed_at)"
        " SELECT site, now() - %s::interval, now() - %s::interval FROM unnest(%s::uuid[]) AS site",
        [PERIOD, PERIOD, made.sites],
    )
    connection.execute(
        "CREATE TABLE filled_links (number int PRIMARY KEY, instance_id uuid NOT NULL, payment_link_id uuid NOT NULL)"
    )
    links = _links(made)
    with connection.cursor().copy("COPY filled_links FROM STDIN") as copy:
        for row in links:
            copy.write_row(row)
    connection.execute("ANALYZE filled_links")
    with _without_indexes(connection):
        _fill_rows(connection, options, 0, _warming_row(options))


def _warming_row(options: Options) -> int:
    return options.rows - int(options.rows * WARMING_SHARE)


def _fill_rows(connection: psycopg.Connection, options: Options, first: int, until: int) -> None:
    [[links]] = connection.execute("SELECT count(*) FROM filled_links").fetchall()
    # Until an hour ago, so that the new events can be told from the old by when they were received.
    values = {
        "links": links,
        "skew": tokens.SKEW,
        "rows": options.rows,
        "since": datetime.now(UTC) - PERIOD - timedelta(hours=1),
        "period": PERIOD,
    }
    told = time.monotonic()
    for start in range(first, until, CHUNK):
        last = min(start + CHUNK, until) - 1
        connection.execute(FILL, values | {"first": start, "last": last})
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"    {last + 1:,} rows", flush=True)


def _links(made: tokens.Tokens) -> list[tuple[int, UUID, UUID]]:
    """The links of the new events, each among others of its site, by how often they are paid."""
    found: list[tuple[int, UUID, UUID]] = []
    for place, link_id in enumerate(made.links):
        site = made.sites[place % len(made.sites)]
        for more in range(LINKS_MORE + 1):
            one = link_id if more == 0 else UUID(int=(link_id.int * (more + 1) + more) % 2**128)
            found.append((len(found), site, one))
    return found


@contextmanager
def _without_indexes(connection: psycopg.Connection) -> Iterator[None]:
    """Take keys and indexes of what is filled away, and build them again as they were."""
    tables = list(FILLED)
    constraints = connection.execute(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), contype = 'f' FROM pg_constraint"
        " WHERE (contype IN ('p', 'u') AND conrelid = ANY(%(tables)s::regclass[]))"
        " OR (contype = 'f' AND confrelid = ANY(%(tables)s::regclass[]))"
        " ORDER BY contype = 'f' DESC, conname",
        {"tables": tables},
    ).fetchall()
    indexes = connection.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid = ANY(%s::regclass[]) AND indexrelid NOT IN (SELECT conindid FROM pg_constraint)"
        " ORDER BY 1",
        [tables],
    ).fetchall()
    for table, name, _, _ in constraints:
        connection.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.Identifier(table), sql.Identifier(name))
        )
    for name, _ in indexes:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    yield
    for _, definition in indexes:
        connection.execute(definition)
    for table, name, definition, _ in reversed(constraints):
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} ").format(sql.Identifier(table), sql.Identifier(name))
            + sql.SQL(definition)
        )
