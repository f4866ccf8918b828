"""What sweeps cost: a part staged and matched beside the bare join, and a whole sweep with its calls and its CPU.

    .venv/bin/python -m benchmarks --only sweeps [--quick]

`matching`: the payments of one shop, all as booked but for one in a hundred that is changed, are staged and compared in
parts as a sweep does it; beside, in turns, one statement counts a full outer join of the same rows, laid in a table
before. Reading and parsing what Wix lists is not in it. `sweep`: a process that does nothing else sweeps a sandbox over
HTTP. Its own CPU is that of the process, not PostgreSQL's or the sandbox's.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from benchmarks import machine
from benchmarks.large_link import new_database
from benchmarks.pretend import PROCESSOR, a_loaded_sandbox, settings_for
from processor import embedded, jobs, wiring
from processor.config import Settings, database_url
from processor.domain.payment import FACTS, Payment
from processor.jobs.sweeping import PART_PAGES
from processor.store import instances, staging
from processor.store.database import Database, open_database
from processor.wix import wire

INSTANCE = UUID(int=7)
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
PART = PART_PAGES * wire.PAGE_MAX
CHANGED_EVERY = 100


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured. sizes: payments matched; swept: payments of the sandbox that is swept."""

    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    rounds: int = 3
    swept: int = 20_000
    seed: int = 1


class Mismatch(Exception):
    """What was found is not what is there."""


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Measure both; tells each."""
    with machine.start_servers(folder / "servers") as servers:
        matched = _matching(options, servers)
        swept = _sweep(options, servers, folder)
    by_size = {line["payments"]: line for line in matched}
    least, most = min(by_size), max(by_size)
    return {
        "matching": matched,
        "linear": by_size[most]["us"]["median"] / by_size[least]["us"]["median"] if most > least else None,
        "memory_growth_mb": by_size[most]["rss_mb"] - by_size[least]["rss_mb"] if most > least else None,
        "sweep": swept,
    }


# -- Matching --------------------------------------------------------------------------------------


def _matching(options: Options, servers: embedded.Servers) -> list[dict[str, Any]]:
    print("\nStaged and matched in parts, and the bare join; microseconds for each payment.", flush=True)
    found = []
    for size in options.sizes:
        url = _migrated(servers, f"matching_{size}")
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.sweeps", "match", str(size), str(options.rounds)],
            check=True,
            stdout=subprocess.PIPE,
            env=os.environ | {"DATABASE_URL": url},
        )
        line = json.loads(told.stdout.splitlines()[-1])
        found.append(line)
        print(
            f"  {size:>9,}  ours {line['us']['median']:5.1f} (staged {line['staged_us']:.1f})  bare"
            f" {line['bare_us']['median']:4.1f}  ratio {line['ratio']['median']:.1f}"
            f" ({line['ratio']['least']:.1f} to {line['ratio']['most']:.1f})  this process {line['rss_mb']:.0f} MB,"
            f" its backend {line['backend_mb']:.0f} MB",
            flush=True,
        )
    return found


def _migrated(servers: embedded.Servers, name: str) -> str:
    url = new_database(servers, name)
    subprocess.run(
        [*PROCESSOR, "migrate"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"DATABASE_URL": url},
    )
    return url


def _match(size: int, rounds: int) -> None:
    """The process that matches, alone in memory; told on the last line."""
    database = open_database(
        database_url(os.environ["DATABASE_URL"]),
        name="bench",
        pool_size=1,
        pool_seconds=5,
        statement_seconds=600,
    )
    _fill(database, size)
    _round(database, min(size, PART))  # what is done once
    ours, staged, bare = [], [], []
    for _ in range(rounds):
        bare.append(_bare(database))
        taken, staging_alone = _round(database, size)
        ours.append(taken)
        staged.append(staging_alone)
    each = 1e6 / size
    print(
        json.dumps(
            {
                "payments": size,
                "us": _spread([one * each for one in ours]),
                "staged_us": statistics.median(staged) * each,
                "bare_us": _spread([one * each for one in bare]),
                "ratio": _spread([one / other for one, other in zip(ours, bare, strict=True)]),
                "rss_mb": _rss_mb("self"),
                "backend_mb": _rss_mb(str(_backend(database))),
            }
        )
    )


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _fill(database: Database, size: int) -> None:
    facts = ", ".join(("payment_id", "revision", *FACTS))
    with database.begin() as connection:
        instances.confirm(connection, INSTANCE, BEGINNING)
        connection.execute(
            text("""
                INSERT INTO payments (instance_id, payment_id, payment_link_id, revision, amount, currency, type,
                    created_at, transaction_at, ecom_checkout_id, ecom_order_id, method, payment_method,
                    payment_provider, first_origin, origin, run_id, stored_at, changed_at, last_verdict, last_told_at,
                    match_state)
                SELECT :instance_id, CAST(md5(CAST(number AS text)) AS uuid),
                    CAST(md5(CAST(number / 50 AS text)) AS uuid), 1, 10.5, 'USD', 'REGULAR', moment, moment,
                    'checkout ' || number, 'order ' || number, 'CREDIT_CARD', 'creditCard', 'Credit/Debit Cards',
                    'poll', 'poll', gen_random_uuid(), moment, moment, 'new', moment, 'matched'
                FROM generate_series(0, :size - 1) AS number
                CROSS JOIN LATERAL (SELECT :beginning + number * interval '1 second' AS moment) AS at"""),
            {"instance_id": INSTANCE, "size": size, "beginning": BEGINNING},
        )
        connection.execute(text(f"CREATE UNLOGGED TABLE listed AS SELECT {facts} FROM payments"))  # noqa: S608
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in ("payments", "listed"):
            connection.execute(text(f"VACUUM ANALYZE {table}"))
        connection.execute(text("CHECKPOINT"))


def _bare(database: Database) -> float:
    began = time.perf_counter()
    with database.begin() as connection:
        connection.execute(
            text("SELECT count(*) FROM listed FULL JOIN payments USING (payment_id)")
        ).scalar_one()
    return time.perf_counter() - began


def _round(database: Database, size: int) -> tuple[float, float]:
    """Seconds that staging and matching took, and staging alone. Raises Mismatch."""
    taken = staged = 0.0
    for start in range(0, size, PART):
        part = list(_listed(start, min(size, start + PART)))
        changed = sum(one.revision > 1 for one in part)
        began = time.perf_counter()
        with database.begin() as connection:
            staging.stage(connection, part)
            staged += time.perf_counter() - began
            compared = staging.compare(
                connection,
                INSTANCE,
                since=BEGINNING + timedelta(seconds=start),
                until=BEGINNING + timedelta(seconds=start + len(part)),
                settling=timedelta(0),
                now=BEGINNING,
            )
        taken += time.perf_counter() - began
        if dict(compared.verdicts) != {"same": len(part) - changed, "newer": changed}:
            raise Mismatch(f"of {len(part)} payments {dict(compared.verdicts)} were found")
    with database.begin() as connection:
        connection.execute(text("TRUNCATE check_requests"))
    return taken, staged


def _listed(start: int, end: int) -> Iterator[Payment]:
    """What Wix would list of `_fill`."""
    for number in range(start, end):
        moment = BEGINNING + timedelta(seconds=number)
        yield Payment(
            instance_id=INSTANCE,
            payment_id=_id(number),
            payment_link_id=_id(number // 50),
            revision=1 + (number % CHANGED_EVERY == 0),
            amount=Decimal("10.50"),
            currency="USD",
            type="REGULAR",
            created_at=moment,
            transaction_at=moment,
            ecom_checkout_id=f"checkout {number}",
            ecom_order_id=f"order {number}",
            method="CREDIT_CARD",
            payment_method="creditCard",
            payment_provider="Credit/Debit Cards",
        )


def _id(number: int) -> UUID:
    return UUID(hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest())


def _backend(database: Database) -> int:
    with database.begin() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def _rss_mb(process: str) -> float:
    """Memory of its own that a process holds, in MB; 0 where the system does not tell."""
    try:
        lines = (machine.PROC / process / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


# -- A sweep ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Swept:
    """One sweep of payments that are all booked. floor: calls it takes at least. cpu: seconds of its process."""

    payments: int
    calls: int
    floor: int
    cpu_seconds: float
    rss_mb: float


def _sweep(options: Options, servers: embedded.Servers, folder: Path) -> dict[str, Any]:
    volume = {"payments": options.swept, "links": options.swept // 100, "days": 2, "seed": options.seed}
    with a_loaded_sandbox(folder, **volume) as control:
        environ = settings_for(control) | {
            "DATABASE_URL": _migrated(servers, "swept"),
            "REDIS_URL": servers.redis_url,
            "LOG_LEVEL": "ERROR",
        }
        instance_id = control.get("instances")["instances"][0]["instanceId"]
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.sweeps", "sweep", instance_id, str(options.swept)],
            check=True,
            stdout=subprocess.PIPE,
            env=os.environ | environ,
        )
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    thousands = found["payments"] / 1_000
    print(
        f"\nA sweep of {found['payments']:,} payments: {found['calls'] / thousands:.1f} calls for each thousand"
        f" (floor {found['floor'] / thousands:.1f}), {found['cpu_seconds'] / thousands * 1e3:.0f} ms of its own CPU,"
        f" {found['rss_mb']:.0f} MB.",
        flush=True,
    )
    return found


def _sweep_alone(instance_id: UUID, payments: int) -> None:
    """The process that sweeps: once until everything is booked, then once more, which is told on the last line."""
    services = wiring.build(Settings.read(os.environ), role="worker")
    with services.database.begin() as connection:
        instances.confirm(connection, instance_id, services.now())

    def sweep() -> None:
        with services.database.begin() as connection:
            connection.execute(text("UPDATE sweeps SET due_at = now()"))
        while jobs.run_sweep(services, instance_id):
            pass

    def one(sql: str) -> int:
        with services.database.begin() as connection:
            return int(connection.execute(text(sql)).scalar_one())

    sweep()
    while one("SELECT count(*) FROM payments") < payments:
        before = one("SELECT count(*) FROM payments")
        jobs.run_check(services, instance_id)
        if one("SELECT count(*) FROM payments") == before:
            raise Mismatch("the checks after the first sweep book no more")
    calls, cpu = services.wix_responses.total(), time.process_time()
    sweep()
    swept = Swept(
        payments=payments,
        calls=services.wix_responses.total() - calls,
        floor=ceil(payments / wire.PAGE_MAX),
        cpu_seconds=time.process_time() - cpu,
        rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 2**10),
    )
    asked = one("SELECT count(*) FROM check_requests")
    if asked:
        raise Mismatch(f"a sweep over what is booked asked for {asked} checks")
    print(json.dumps(asdict(swept)))


if __name__ == "__main__":
    if sys.argv[1] == "match":
        _match(int(sys.argv[2]), int(sys.argv[3]))
    else:
        _sweep_alone(UUID(sys.argv[2]), int(sys.argv[3]))
