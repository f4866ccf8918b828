"""How many webhooks a second are verified and stored, beside other designs on the same machine in the same run.

    .venv/bin/python -m benchmarks.intake [options]        (make bench measures this and everything else)

Each design (`benchmarks.designs`) is served by real processes, started anew for every point, over a durable PostgreSQL
with empty tables; a client in C (`load.c`) sends distinct signed events. The designs take turns, in another order each
time, and only the RATIOS of one turn are compared: the same design may move by half from one minute to the next on a
shared machine, so numbers of different runs or machines say little. After each point the events answered 200 must be
those stored, each with its payment and a check asked for; otherwise the run ends with an error.

Read with care: p99.9 of fewer than 5,000 answers is little more than the maximum. CPU for each event depends on the
rate, since small batches cost more. Client and servers share the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from redis import Redis

from benchmarks import machine, tokens
from benchmarks.designs import DESIGNS, ROOT, Books, Design
from processor import embedded
from processor.config import database_url, declared_settings
from processor.processes import Child, free_port, wait_until
from processor.store import migrations
from processor.system import LOCALHOST

LATE_MS = 1_250  # Wix gives up
TIMEOUT_SECONDS = 5.0  # the client's, well above, so that late answers are seen as such
OPEN_CONNECTIONS = 256  # the most an open loop opens; it opens no more than it needs
WARM_UP_CONNECTIONS = 64
# More than any design took on the machines seen. A design that takes them all ends its point early.
TOKENS_PER_SECOND = 8_000
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
HERE = Path(__file__).parent
FAMILIES = ("naive", "lean", "null")  # what others are compared with


class Mismatch(Exception):
    """What a design answered and what it stored are not the same."""


@dataclass(frozen=True, slots=True)
class Load:
    """rate: events a second of an open loop, None for a closed one."""

    connections: int
    rate: float | None

    def __str__(self) -> str:
        if self.rate is None:
            return f"{self.connections} connection{'s' if self.connections > 1 else ''}, closed loop"
        return f"{self.rate:.0f}/s, open loop"


@dataclass(frozen=True, slots=True)
class Point:
    """One design under one load once. client: what the load client printed. cpu_us: for each answer, by who used it."""

    delay_ms: float
    round: int
    design: str
    load: str
    rate: float | None
    client: dict[str, Any]
    stored: int | None
    unanswered_but_stored: int
    cpu_us: dict[str, float | None]
    wal_bytes: float | None = None  # for each event stored, of the whole server

    @property
    def per_second(self) -> float:
        """Events answered 200."""
        return float(self.client["per_second"])

    @property
    def refused(self) -> int:
        """Answers other than 200."""
        return sum(count for status, count in self.client["statuses"].items() if status != "200")


@dataclass(slots=True)
class Bench:
    """What every point needs. environ: of the servers, beside their own settings.

    is_flushed: whether a checkpoint is made before each point, so that none writes the pages of the one before.
    """

    folder: Path
    load_program: Path
    tokens: tokens.Tokens
    servers: embedded.Servers
    seconds: float
    warm_up: float
    environ: dict[str, str]
    delay_ms: float = 0
    backpressure: int | None = None
    points: list[Point] = field(default_factory=list)
    is_flushed: bool = True
    began: datetime = field(
        default_factory=lambda: datetime.now(UTC)
    )  # of the point under way, once it is warm

    def measure(
        self,
        design: Design,
        load: Load,
        number: int,
        *,
        bodies: tuple[int, int] = (0, 0),
        warm_bodies: tuple[int, int] = (0, 0),
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Point:
        """One point: a server of its own, warmed up, then empty tables, then the load. Raises Mismatch.

        bodies, warm_bodies: [first, last) to send, (0, 0) for all. around: what the load runs in.
        """
        port = free_port()
        child = self._child(design, port)
        child.start()
        try:
            wait_until(lambda: _answers(port), what=design.name, seconds=60, children=[child])
            if self.warm_up > 0:
                warm = Load(WARM_UP_CONNECTIONS, None)
                self._run(port, warm, self.warm_up, wraps=True, bodies=warm_bodies)
            if design.books is not None:
                self._empty(design.books)
            ledger = self.folder / "ledger"
            before, written = self._cpu(child), self._wal()
            with around():
                client = self._run(
                    port, load, self.seconds, wraps=design.books is None, ledger=ledger, bodies=bodies
                )
            written = self._wal() - written
            used = {name: _less(after, before[name]) for name, after in self._cpu(child).items()}
            used["client"] = client["cpu_s"]
            stored, in_doubt = self._check(design, ledger) if design.books is not None else (None, 0)
        finally:
            child.stop()
        answered = client["answered"]
        cpu = {
            name: round(seconds / answered * 1e6, 1) if answered and seconds is not None else None
            for name, seconds in used.items()
        }
        wal = round(written / stored) if stored else None
        return Point(
            self.delay_ms, number, design.name, str(load), load.rate, client, stored, in_doubt, cpu, wal
        )

    def _child(self, design: Design, port: int) -> Child:
        counts = self.folder / "counts"
        shutil.rmtree(counts, ignore_errors=True)
        counts.mkdir()
        database = design.books.database if design.books is not None else embedded.DATABASE
        settings = {
            "DATABASE_URL": self.servers.postgres.url_of(database),
            "REDIS_URL": self.servers.redis_url,
            "WIX_PUBLIC_KEYS": self.tokens.public_key,
            "PROMETHEUS_MULTIPROC_DIR": str(counts),
            "PYTHONPATH": str(ROOT),
            **design.environ,
        }
        return Child(
            design.name,
            design.command(port, self.backpressure),
            environ={**self.environ, **settings},
            log_file=self.folder / f"{design.name}.log",
        )

    def _run(
        self,
        port: int,
        load: Load,
        seconds: float,
        *,
        wraps: bool,
        ledger: Path | None = None,
        bodies: tuple[int, int] = (0, 0),
        file: Path | None = None,
    ) -> dict[str, Any]:
        command: list[str | Path] = [
            *(self.load_program, "--port", str(port), "--bodies", file or self.tokens.file),
            *("--first", str(bodies[0]), "--last", str(bodies[1])),
            *("--connections", str(load.connections), "--seconds", str(seconds)),
            *("--timeout-ms", str(TIMEOUT_SECONDS * 1000), "--late-ms", str(LATE_MS)),
            *(("--rate", str(load.rate)) if load.rate is not None else ()),
            *(("--wrap",) if wraps else ()),
            *(("--ledger", ledger) if ledger else ()),
        ]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, check=True, timeout=seconds + TIMEOUT_SECONDS + 30
        )
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def _cpu(self, child: Child) -> dict[str, float | None]:
        return {
            "app": machine.cpu_seconds(child.pid),
            "postgresql": machine.cpu_seconds(self.servers.postgres.pid),
            "redis": machine.cpu_seconds(self.servers.valkey.pid),
        }

    def _wal(self) -> int:
        """Bytes of write-ahead log written so far."""
        with psycopg.connect(self.servers.database_url) as connection:
            found = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        assert found is not None
        return int(found[0])

    def _empty(self, books: Books) -> None:
        with _redis(self.servers) as client:
            client.flushdb()
        with psycopg.connect(self.servers.postgres.url_of(books.database), autocommit=True) as connection:
            emptied: Sequence[str] = books.emptied
            if not emptied:
                rows = connection.execute(
                    "SELECT quote_ident(tablename) FROM pg_tables"
                    " WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1"
                ).fetchall()
                emptied = [row[0] for row in rows]
            # History refuses to be emptied; its triggers are of no replica.
            connection.execute("SET session_replication_role = replica")
            connection.execute(f"TRUNCATE {', '.join(emptied)} CASCADE")
            connection.execute("RESET session_replication_role")
            if books.prepare is not None:
                connection.execute(books.prepare, [self.tokens.sites])
            if self.is_flushed:
                connection.execute("CHECKPOINT")
        self.began = datetime.now(UTC)

    def _check(self, design: Design, ledger: Path) -> tuple[int, int]:
        """How many events are stored, and how many of them were not answered 200. Raises Mismatch."""
        books = design.books
        assert books is not None
        known = {"since": self.began, "sites": self.tokens.sites}
        answered: set[tuple[UUID, UUID]] = set()
        sent: set[tuple[UUID, UUID]] = set()
        for index, status in struct.iter_unpack("=II", ledger.read_bytes()):
            delivery = self.tokens.deliveries[index]
            ids = (delivery.event_id, delivery.payment_id)
            sent.add(ids)
            if status == 200:
                answered.add(ids)
        unasked: Any = 0
        with psycopg.connect(self.servers.postgres.url_of(books.database)) as connection:
            rows = connection.execute(books.stored, known).fetchall()
            if books.unasked is not None:
                [[unasked]] = connection.execute(books.unasked, known).fetchall()
        stored = {(row[0], row[1]) for row in rows}
        faults = {
            "answered 200 and not stored": len(answered - stored),
            "stored more than once": len(rows) - len(stored),
            "stored and never sent": len(stored - sent),
            "stored without asking for a check": unasked,
        }
        in_doubt = len(stored - answered)
        if books.queue is not None:
            with _redis(self.servers) as client:
                jobs = int(client.llen(books.queue))
            # What was stored and not answered may have been enqueued or not.
            if not len(answered) <= jobs:
                faults["answered 200 without a job"] = len(answered) - jobs
        if found := ", ".join(f"{count} {what}" for what, count in faults.items() if count):
            raise Mismatch(
                f"{design.name}: of {len(answered)} events answered 200 and {len(stored)} stored: {found}"
            )
        return len(stored), in_doubt


def _less(after: float | None, before: float | None) -> float | None:
    """None as well where the process is another one by now."""
    return None if after is None or before is None or after < before else after - before


@contextmanager
def _redis(servers: embedded.Servers) -> Iterator[Redis]:
    client = Redis.from_url(servers.redis_url, socket_timeout=10)
    try:
        yield client
    finally:
        client.close()


def _answers(port: int) -> bool:
    """Whether an HTTP server listens there and an application answers."""
    try:
        with socket.create_connection((LOCALHOST, port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(5) == b"HTTP/"
    except OSError:
        return False


# -- Servers -----------------------------------------------------------------------------------------


def make_databases(servers: embedded.Servers) -> None:
    """A database for each kind of books, and proof that this PostgreSQL does not forget the disk."""
    books = {design.books.database: design.books for design in DESIGNS if design.books is not None}
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        for name, wanted in DURABLE.items():
            found = connection.execute(f"SHOW {name}").fetchone()
            if found is None or found[0] != wanted:
                raise SystemExit(f"PostgreSQL has {name} {found}: nothing would be measured")
        for one in books.values():
            connection.execute(f"CREATE DATABASE {one.database}")
    for one in books.values():
        url = servers.postgres.url_of(one.database)
        if one.schema is None:
            migrations.upgrade(database_url(url))
        else:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(one.schema)


@contextmanager
def opened(
    folder: Path, made: tokens.Tokens, *, seconds: float, warm_up: float, is_flushed: bool = True
) -> Iterator[Bench]:
    """Servers of their own, every database, and what points need."""
    program = load_program(folder)
    with machine.start_servers(folder / "servers") as servers:
        make_databases(servers)
        yield Bench(folder, program, made, servers, seconds, warm_up, clean_environ(), is_flushed=is_flushed)


def commit_ms(servers: embedded.Servers) -> float:
    """What one durable commit of one row takes: the median of 20, in a database that is nobody's."""
    took: list[float] = []
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE commits (number int)")
        for number in range(20):
            began = time.perf_counter()
            connection.execute("INSERT INTO commits VALUES (%s)", [number])
            took.append((time.perf_counter() - began) * 1000)
        connection.execute("DROP TABLE commits")
    return round(statistics.median(took), 3)


def postgres_program(folder: Path) -> Path | None:
    """The program of the PostgreSQL that `embedded` starts, None where the system does not tell."""
    with embedded.start(folder / "servers-found") as servers:
        executable = Path(f"/proc/{servers.postgres.pid}/exe")
        return executable.resolve() if executable.exists() else None


def slow_programs(folder: Path, postgres: Path, delay_ms: float) -> dict[str, str]:
    """The environment that lets `embedded` start a PostgreSQL whose every fsync takes `delay_ms` longer."""
    shim = folder / "slow_fsync.so"
    if not shim.exists():
        machine.compile_c(HERE / "slow_fsync.c", shim, "-shared", "-fPIC", "-ldl")
    programs = folder / f"programs-{delay_ms:g}"
    programs.mkdir()
    for name, preload in (("postgres", f"LD_PRELOAD='{shim}' SLOW_FSYNC_MS={delay_ms:g} "), ("initdb", "")):
        script = programs / name
        script.write_text(f"#!/bin/sh\n{preload}exec '{postgres.with_name(name)}' \"$@\"\n")
        script.chmod(0o755)
    shim.chmod(0o755)
    return {**os.environ, embedded.POSTGRES_VARIABLE: str(programs)}


# -- What is told ------------------------------------------------------------------------------------


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Median, least and most; None of nothing."""
    found = sorted(values)
    if not found:
        return None
    return {
        "median": round(statistics.median(found), 3),
        "least": round(found[0], 3),
        "most": round(found[-1], 3),
    }


def latency_ratios(points: Sequence[Point], one: Sequence[Point], family: str) -> dict[str, float] | None:
    """Median answer time of `one` design over that of the quickest of `family`, round by round."""
    names = {design.name for design in DESIGNS if design.family == family}
    found: list[float] = []
    for point in one:
        of_round = [
            other.client["p50_ms"]
            for other in points
            if other.design in names and other.round == point.round and other.client["p50_ms"] > 0
        ]
        if of_round:
            found.append(point.client["p50_ms"] / min(of_round))
    return spread(found)


def ratios(points: Sequence[Point], one: Sequence[Point], family: str) -> dict[str, float] | None:
    """Events a second of `one` design over those of the fastest of `family`, round by round."""
    names = {design.name for design in DESIGNS if design.family == family}
    found: list[float] = []
    for point in one:
        best = max(
            (other.per_second for other in points if other.design in names and other.round == point.round),
            default=0,
        )
        if best > 0:
            found.append(point.per_second / best)
    return spread(found)


def summarise(points: Sequence[Point], *, has_ratios: bool) -> list[dict[str, Any]]:
    """One line for each design of points that share load and delay."""
    lines: list[dict[str, Any]] = []
    for design in DESIGNS:
        one = [point for point in points if point.design == design.name]
        if not one:
            continue
        line: dict[str, Any] = {
            "delay_ms": one[0].delay_ms,
            "load": one[0].load,
            "design": design.name,
            "rounds": len(one),
            "per_second": spread(point.per_second for point in one),
            **{
                name: spread(point.client[name] for point in one)
                for name in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")
            },
            "late": sum(point.client["late"] for point in one),
            "unanswered": sum(point.client["unanswered"] + point.client["unsent"] for point in one),
            "refused": sum(point.refused for point in one),
            "stored": sum(point.stored for point in one if point.stored is not None)
            if design.books
            else None,
            "ran_out_of_tokens": any(point.client["exhausted"] for point in one),
            "cpu_us": {
                name: spread(used for point in one if (used := point.cpu_us[name]) is not None)
                for name in one[0].cpu_us
            },
            "wal_bytes": spread(point.wal_bytes for point in one if point.wal_bytes is not None),
            "client_share_of_cpu": spread(
                share for point in one if (share := _client_share(point)) is not None
            ),
        }
        if has_ratios:
            line["ratios"] = {family: ratios(points, one, family) for family in FAMILIES}
            line["latency_ratios"] = {family: latency_ratios(points, one, family) for family in FAMILIES}
        lines.append(line)
    return lines


def _client_share(point: Point) -> float | None:
    """What the load client used of all that was used, None where only its own use is known."""
    used = list(point.cpu_us.values())
    if None in used or point.cpu_us["client"] is None:
        return None
    return point.cpu_us["client"] / sum(filter(None, used))


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines of one load, for people."""

    def median(found: Mapping[str, float] | None, digits: int = 0) -> str:
        return "-" if found is None else f"{found['median']:,.{digits}f}"

    def with_spread(found: Mapping[str, float] | None) -> str:
        if found is None:
            return "-"
        if found["least"] == found["most"]:
            return f"{found['median']:.2f}"
        return f"{found['median']:.2f} ({found['least']:.2f}-{found['most']:.2f})"

    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("design", lambda one: one["design"] + ("*" if one["ran_out_of_tokens"] else "")),
        ("events/s", lambda one: median(one["per_second"])),
        ("p50 ms", lambda one: median(one["p50_ms"], 1)),
        ("p90", lambda one: median(one["p90_ms"], 1)),
        ("p99", lambda one: median(one["p99_ms"], 1)),
        ("p99.9", lambda one: median(one["p999_ms"], 1)),
        ("max", lambda one: median(one["max_ms"], 1)),
        (f">{LATE_MS}", lambda one: f"{one['late']:,}"),
        ("lost", lambda one: f"{one['unanswered']:,}"),
        ("not 200", lambda one: f"{one['refused']:,}"),
        (
            "CPU us app+PG+Redis+client",
            lambda one: " + ".join(
                median(one["cpu_us"][name]) for name in ("app", "postgresql", "redis", "client")
            ),
        ),
        (
            "client %",
            lambda one: (
                f"{one['client_share_of_cpu']['median'] * 100:.0f}" if one["client_share_of_cpu"] else "-"
            ),
        ),
    ]
    if any("ratios" in one for one in lines):
        for family, title in (("naive", "x naive"), ("lean", "x lean"), ("null", "of null")):
            columns.append((title, lambda one, family=family: with_spread(one["ratios"][family])))  # type: ignore[misc]
    cells = [[title for title, _ in columns], *([cell(one) for _, cell in columns] for one in lines)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


# -- The run -----------------------------------------------------------------------------------------


def main() -> None:
    """Measure what was asked for."""
    options = parse()

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    # Whatever ends us, what we started is stopped on the way out.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    folder = Path(tempfile.mkdtemp(prefix="processor-bench-"))
    folder.chmod(0o755)
    try:
        found = run(options, folder)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1, default=str) + "\n")
    except Mismatch as why:
        raise SystemExit(f"The benchmark FAILED: {why}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def load_program(folder: Path) -> Path:
    """The load client, compiled."""
    program = folder / "load"
    if not program.exists():
        machine.compile_c(HERE / "load.c", program)
    return program


def clean_environ() -> dict[str, str]:
    """Our environment without our own settings, which every server is given anew."""
    ours = {declared.variable for declared in declared_settings().values()}
    return {name: value for name, value in os.environ.items() if name not in ours}


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every delay, every load, every round, every design; tells what came of it, and returns it for a file."""
    began = datetime.now(UTC)
    shape = machine.shape()
    chosen = [design for design in DESIGNS if design.name in options.designs]
    program = load_program(folder)
    longest = max([TOKENS_PER_SECOND, *(rate for rate in options.rates if isinstance(rate, float))])
    count = int(longest * options.seconds)
    print(f"Signing {count:,} events (seed {options.seed}).", flush=True)
    made = tokens.make(folder / "bodies", count, seed=options.seed, duplicates=options.duplicates)
    kind, sync_ms = machine.file_system(folder), machine.fdatasync_ms(folder)
    print(
        f"Mean body {made.mean_bytes:,.0f} bytes; {options.duplicates:.0%} are immediate duplicates."
        f" The database is on {kind or 'a file system'} where fdatasync takes {sync_ms} ms."
    )
    if kind in ("tmpfs", "ramfs"):
        print("That is memory, where nothing is durable: set TMPDIR to a folder on a disk to measure one.")
    environ = clean_environ()
    # Where its programs are found, for the delays.
    postgres = postgres_program(folder) if options.fsync_delay_ms else None
    points: list[Point] = []
    lines: list[dict[str, Any]] = []
    about: dict[str, Any] = {"commit_ms": {}, "naive_capacity_per_second": {}}
    for delay in (*(() if options.slowed_only else (0.0,)), *options.fsync_delay_ms):
        if delay and postgres is None:
            raise SystemExit("--fsync-delay-ms needs Linux: it is done by preloading a library")
        where = os.environ if not delay else slow_programs(folder, Path(str(postgres)), delay)
        with machine.start_servers(folder / f"servers-{delay:g}", where) as servers:
            make_databases(servers)
            about["postgresql"] = _version(servers)
            about["commit_ms"][f"{delay:g}"] = took = commit_ms(servers)
            if took < delay:
                raise SystemExit(f"a commit takes {took} ms although fsync should take {delay:g} ms longer")
            bench = Bench(
                folder,
                program,
                made,
                servers,
                options.seconds,
                options.warm_up,
                environ,
                delay_ms=delay,
                backpressure=options.backpressure,
            )
            loads, capacity = _loads(options, bench)
            about["naive_capacity_per_second"][f"{delay:g}"] = capacity
            if delay:
                print(f"\nEvery fsync takes {delay:g} ms longer; one commit takes {took} ms.")
            each = options.seconds + options.warm_up + 2.5
            runs = options.rounds * len(loads) * len(chosen)
            print(f"{runs} points of about {each:.1f} s each.", flush=True)
            for number in range(options.rounds):
                for place, load in enumerate(loads):
                    turn = (number + place) % len(chosen)
                    for design in chosen[turn:] + chosen[:turn]:
                        point = bench.measure(design, load, number + 1)
                        bench.points.append(point)
                        _tell(point)
            points += bench.points
            for load in loads:
                of_load = [point for point in bench.points if point.load == str(load)]
                found = summarise(of_load, has_ratios=load.rate is None)
                lines += found
                print(
                    f"\n{load}{f', fsync {delay:g} ms slower' if delay else ''}:\n{table(found)}", flush=True
                )
    print(
        "\nMedians over the rounds; in brackets least and most. x naive, x lean: against the faster of that kind in"
        " the same round. lost: never answered, or due and never sent. *: ended early, its tokens used up."
    )
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    return {
        "began_at": began.isoformat(timespec="seconds"),
        "seconds_taken": round((datetime.now(UTC) - began).total_seconds(), 1),
        "seed": options.seed,
        "settings": settings | {"links": tokens.LINKS, "sites": tokens.SITES, "tokens": count},
        "mean_body_bytes": round(made.mean_bytes),
        "machine": shape | {"file_system": kind, "fdatasync_ms": sync_ms},
        "versions": machine.packages(),
        "commit": machine.commit(ROOT),
        **about,
        "designs": [asdict(design) for design in chosen],
        "summary": lines,
        "points": [asdict(point) for point in points],
    }


def _loads(options: argparse.Namespace, bench: Bench) -> tuple[list[Load], float | None]:
    """Every load, and what naive can do where a rate is told in multiples of that."""
    loads = [Load(connections, None) for connections in options.connections]
    capacity: float | None = None
    for rate in options.rates:
        if isinstance(rate, float):
            loads.append(Load(OPEN_CONNECTIONS, rate))
            continue
        if capacity is None:
            rivals = [design for design in DESIGNS if design.family == "naive"]
            capacity = max(bench.measure(design, Load(16, None), 0).per_second for design in rivals)
            print(f"The naive design takes {capacity:,.0f} events/s.", flush=True)
        loads.append(Load(OPEN_CONNECTIONS, round(capacity * float(rate[:-1]), 1)))
    return loads, capacity


def _version(servers: embedded.Servers) -> str:
    with psycopg.connect(servers.database_url) as connection:
        found = connection.execute("SHOW server_version").fetchone()
    assert found is not None
    return str(found[0])


def _tell(point: Point) -> None:
    print(
        f"  round {point.round}  {point.load:<28} {point.design:<16} {point.per_second:>8,.0f}/s"
        f"  p99 {point.client['p99_ms']:>8,.1f} ms"
        + (f"  {point.stored:>7,} stored, all answered" if point.stored is not None else "")
        + (f" but {point.unanswered_but_stored}" if point.unanswered_but_stored else "")
        + (f"; {point.refused} not 200" if point.refused else ""),
        flush=True,
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options, of the command line when none are given."""
    names = [design.name for design in DESIGNS]

    def several(text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    def connections(text: str) -> list[int]:
        return [int(part) for part in several(text)]

    def rates(text: str) -> list[float | str]:
        found = [
            part if part.endswith("x") and float(part[:-1]) > 0 else float(part) for part in several(text)
        ]
        if any(isinstance(rate, float) and rate <= 0 for rate in found):
            raise ValueError
        return found

    def delays(text: str) -> list[float]:
        return [float(part) for part in several(text) if float(part) > 0]

    def designs(text: str) -> list[str]:
        found = names if text == "all" else several(text)
        if unknown := [name for name in found if name not in names]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(names)}, and all")
        return found

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.intake",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog="Everything stays on this machine, and is stopped and removed at the end.",
    )
    parser.add_argument("--rounds", type=int, help="how often each point is measured (3)")
    parser.add_argument("--seconds", type=float, help="length of one point (2)")
    parser.add_argument("--warm-up", type=float, default=0.7, help="seconds of load before each (0.7)")
    parser.add_argument("--connections", type=connections, help="of the closed loops (1,16,64,256)")
    parser.add_argument(
        "--rates", type=rates, help="of the open loops; 2x: twice what the naive design takes (150,2x)"
    )
    parser.add_argument(
        "--designs",
        type=designs,
        default=[design.name for design in DESIGNS if design.is_default],
        help=f"some of {', '.join(names)}, or all",
    )
    parser.add_argument(
        "--duplicates", type=float, default=0.02, help="share of immediate repetitions (0.02)"
    )
    parser.add_argument(
        "--backpressure",
        type=int,
        help="Granian's, for each worker (as `processor serve`: twice the threads)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the events (1)")
    parser.add_argument(
        "--fsync-delay-ms", type=delays, default=[], help="repeat all of it with a slower disk (Linux): 3,10"
    )
    parser.add_argument(
        "--slowed-only", action="store_true", help="with --fsync-delay-ms: nothing with the disk as it is"
    )
    parser.add_argument("--json", type=Path, help="write everything to this file as well")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s with 16 and 64 connections")
    options = parser.parse_args(arguments)
    quick: bool = options.quick
    options.rounds = options.rounds or (1 if quick else 3)
    options.seconds = options.seconds or (1.0 if quick else 2.0)
    if options.connections is None:
        options.connections = [16, 64] if quick else [1, 16, 64, 256]
    if options.rates is None:
        options.rates = [150.0] if quick else [150.0, "2x"]
    if options.seconds < 0.1 or options.rounds < 1 or not 0 <= options.duplicates < 1:
        parser.error("--rounds, --seconds and --duplicates must make sense")
    return options


if __name__ == "__main__":
    main()
