"""How many payment links a second of a worker's CPU checks: one job for each event beside batches for each instance.

    .venv/bin/python -m benchmarks.checks [--quick] [--json FILE]

A private PostgreSQL and Valkey, and the pretend Wix as a process of its own. Each case gets a copy of the same books,
three events for each link waiting to be checked, and works them off in a worker's process that has warmed up. The
cases take turns, in another order each round. One job for each event takes so long that those cases get fewer links;
everything is told for each link. What is compared is the worker's CPU, its children's included: the pretend Wix
is no faster than the worker, so seconds of the wall say less.

Each case proves its result: every link checked, every planted difference found, none found that is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks import machine
from benchmarks.pretend import a_loaded_sandbox, settings_for
from processor import embedded, logs, queue, wiring
from processor.config import Settings, database_url, declared_settings
from processor.domain.payment import Origin, SeenPayment
from processor.store import checks, inbox, instances, links, migrations, payments
from processor.system import Control
from processor.wix import wire
from processor.wix.parse import parse_payment, seen_link

ROOT = Path(__file__).resolve().parents[1]
NAIVE_QUEUE = "naive"
EVENTS = 3  # of each link, each of a payment of its own
SITES = 2
PLANTED = ("amount_differs", "missing_at_wix", "total_differs", "missing_here")
PLANTED_EACH = 40  # of so many links the first few have one difference each
WAKE_UP_SECONDS = 3.0
NAIVE_SCHEMA = """
CREATE TABLE naive_checks (check_id bigserial PRIMARY KEY, payment_link_id uuid NOT NULL);
CREATE TABLE naive_findings (finding_id bigserial PRIMARY KEY, payment_link_id uuid NOT NULL, type text NOT NULL);
"""
GOAL = 50  # times the links for each second of CPU


@dataclass(frozen=True, slots=True)
class Case:
    """A way of working. class_: the worker's. modules: what the worker imports before its first job."""

    name: str
    class_: str
    modules: tuple[str, ...]
    is_ours: bool
    share: float  # of the links, since some would take for ever


CASES = (
    Case("event, fork", "fork", (), False, 0.01),
    Case("event, fork, preloaded", "fork", ("benchmarks.naive_checks",), False, 0.1),
    Case("event, no fork", "simple", ("benchmarks.naive_checks",), False, 0.1),
    Case("batch, spawn", "spawn", ("processor.worker",), True, 1),
    Case("batch, fork", "fork", ("processor.worker",), True, 1),
    Case("batch, ours", "ours", ("processor.worker",), True, 1),
)
REFERENCES = tuple(case.name for case in CASES if not case.is_ours)


class Mismatch(Exception):
    """A case did not find what there is to be found."""


@dataclass(frozen=True, slots=True)
class Point:
    """One case once."""

    round: int
    case: str
    links: int
    jobs: int
    calls: int
    cpu_seconds: float
    seconds: float

    @property
    def per_cpu_second(self) -> float:
        """Links checked."""
        return self.links / self.cpu_seconds

    @property
    def per_second(self) -> float:
        """Links checked, by the wall."""
        return self.links / self.seconds


@dataclass(slots=True)
class Bench:
    """What every point needs. links: with their instances; the last of each instance is for warming up."""

    folder: Path
    servers: embedded.Servers
    control: Control
    environ: dict[str, str]
    links: list[tuple[UUID, UUID]] = field(default_factory=list)
    warm: list[tuple[UUID, UUID]] = field(default_factory=list)
    planted: dict[UUID, str] = field(default_factory=dict)
    copies: int = 0

    def fill(self) -> None:
        """Book everything in the template, as webhooks would have, and plant the differences."""
        services = wiring.build(Settings.read(self.environ), role="cli")
        by_link: dict[UUID, list[SeenPayment]] = {}
        for told in self.control.get("instances")["instances"]:
            instance_id = UUID(told["instanceId"])
            described = [
                seen_link(one, instance_id)
                for page in services.wix.query_links(instance_id, filter={}, pages_max=1_000)
                for one in page
                if isinstance(one, wire.PaymentLink)
            ]
            seen = [
                parse_payment(one, instance_id)
                for page in services.wix.query_payments(instance_id, filter={}, pages_max=1_000)
                for one in page
            ]
            for one in seen:
                by_link.setdefault(one.payment.payment_link_id, []).append(one)
            with services.database.begin() as connection:
                instances.confirm(connection, instance_id, services.now())
                links.save(connection, described, services.now())
            ids = sorted(one.link.payment_link_id for one in described)
            self.links += [(one, instance_id) for one in ids[:-1]]
            self.warm.append((ids[-1], instance_id))
        self.links.sort()
        for place, (link_id, _) in enumerate(self.links):
            if place % PLANTED_EACH < len(PLANTED):
                self._plant(link_id, PLANTED[place % PLANTED_EACH], by_link)
        with services.database.begin() as connection:
            payments.apply(
                connection,
                [
                    payments.telling(
                        one, origin=Origin.WEBHOOK, told_at=services.now(), event_id=one.payment.payment_id
                    )
                    for of_link in by_link.values()
                    for one in of_link
                ],
            )
        services.close()

    def _plant(self, link_id: UUID, type_: str, by_link: dict[UUID, list[SeenPayment]]) -> None:
        self.planted[link_id] = type_
        payment_id = str(by_link[link_id][0].payment.payment_id)
        match type_:
            case "amount_differs":
                self.control.post("faults", {"kind": "amount_edited", "paymentId": payment_id, "amount": "1"})
            case "missing_at_wix":
                self.control.post("faults", {"kind": "payment_deleted", "paymentId": payment_id})
            case "total_differs":
                self.control.post("faults", {"kind": "wrong_total", "linkId": str(link_id), "by": "3"})
            case "missing_here":
                del by_link[link_id][0]  # nobody told us

    def measure(self, case: Case, number: int) -> Point:
        """One case over a copy of the books. Raises Mismatch."""
        chosen = self.links[: max(len(PLANTED), round(len(self.links) * case.share))]
        self.copies += 1
        name = f"copy_{self.copies}"
        self._admin(f"CREATE DATABASE {name} TEMPLATE {embedded.DATABASE}")
        environ = self.environ | {"DATABASE_URL": self.servers.postgres.url_of(name)}
        client = Redis.from_url(self.servers.redis_url)
        client.flushdb()
        services = wiring.build(Settings.read(environ), role="cli")
        try:
            enqueue = self._batches if case.is_ours else self._events
            enqueue(services, client, self.warm, 1)
            name_of_queue = queue.QUEUE if case.is_ours else NAIVE_QUEUE
            with self._worker(case, name_of_queue, environ) as worker:
                calls = self._calls()
                enqueue(services, client, chosen, EVENTS)
                told = worker()
                calls = self._calls() - calls
            if told["failed"]:
                raise Mismatch(f"{case.name}: {told['failed']} jobs failed")
            self._verify(case, environ["DATABASE_URL"], [link_id for link_id, _ in chosen])
        finally:
            services.close()
            client.close()
        self._admin(f"DROP DATABASE {name} WITH (FORCE)")
        return Point(
            number, case.name, len(chosen), told["jobs"], calls, told["cpu_seconds"], told["seconds"]
        )

    def _batches(
        self, services: wiring.Services, _client: Redis, links: Sequence[tuple[UUID, UUID]], events: int
    ) -> None:
        """Requests as the webhook appends them, and one wake-up."""
        by_instance: dict[UUID, list[UUID]] = {}
        for link_id, instance_id in links:
            by_instance.setdefault(instance_id, []).append(link_id)
        with services.database.begin() as connection:
            for _ in range(events):
                for instance_id, of_instance in by_instance.items():
                    checks.request(connection, instance_id, of_instance, services.now())
        services.queue.wake_up()

    def _events(
        self, services: wiring.Services, client: Redis, links: Sequence[tuple[UUID, UUID]], events: int
    ) -> None:
        """One job for each event."""
        jobs = Queue(NAIVE_QUEUE, connection=client, serializer=JSONSerializer)
        for _ in range(events):
            for link_id, instance_id in links:
                jobs.enqueue("benchmarks.naive_checks.check", str(instance_id), str(link_id))

    @contextmanager
    def _worker(
        self, case: Case, name_of_queue: str, environ: Mapping[str, str]
    ) -> Iterator[Callable[[], dict[str, Any]]]:
        """A worker that has warmed up; calling it lets it work."""
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.check_worker", case.class_, name_of_queue, *case.modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environ,
            )
        assert process.stdin is not None
        assert process.stdout is not None

        def work() -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            told: dict[str, Any] = json.loads(self._line(case, process.stdout.readline()))
            return told

        try:
            self._line(case, process.stdout.readline())
            yield work
        finally:
            process.stdin.close()
            process.terminate()
            process.wait()
            process.stdout.close()

    def _line(self, case: Case, line: bytes) -> bytes:
        if not line:
            said = (self.folder / "worker.log").read_text(errors="replace")[-3_000:]
            raise Mismatch(f"{case.name}: the worker ended; it said:\n{said}")
        return line

    def _calls(self) -> int:
        return sum(one["answered"] for one in self.control.get("rate")["instances"])

    def _verify(self, case: Case, url: str, chosen: Sequence[UUID]) -> None:
        """Every link checked, every planted difference found, and nothing else. Raises Mismatch."""
        if case.is_ours:
            checked = "SELECT payment_link_id FROM link_checks WHERE checked = wanted AND wanted = %s"
            found = """SELECT payment_link_id, type FROM discrepancies WHERE closed_at IS NULL
                UNION SELECT payment_link_id, 'missing_here' FROM payments WHERE first_origin = 'poll'"""
        else:
            checked = "SELECT payment_link_id FROM naive_checks GROUP BY 1 HAVING count(*) = %s"
            found = "SELECT DISTINCT payment_link_id, type FROM naive_findings"
        with psycopg.connect(url) as connection:
            are_checked = {row[0] for row in connection.execute(checked, [EVENTS])}
            differ = {(row[0], row[1]) for row in connection.execute(found)}
        planted = {(one, self.planted[one]) for one in chosen if one in self.planted}
        faults = {
            "links not checked": len(set(chosen) - are_checked),
            "planted differences not found": len(planted - differ),
            "differences found that are not there": len(differ - planted),
        }
        if said := ", ".join(f"{count} {what}" for what, count in faults.items() if count):
            raise Mismatch(f"{case.name}: of {len(chosen)} links and {len(planted)} differences: {said}")

    def _admin(self, statement: str) -> None:
        with psycopg.connect(self.servers.postgres.url_of("postgres"), autocommit=True) as connection:
            connection.execute(statement)


def wake_ups(bench: Bench) -> dict[str, float]:
    """What one web process enqueues while events are stored as fast as one thread can tell of them."""
    from processor.web.afterwork import AfterWork

    client = Redis.from_url(bench.servers.redis_url)
    client.flushdb()
    services = wiring.build(Settings.read(bench.environ), role="web")
    work = AfterWork(services)
    sent, events, until = 0, 0, time.monotonic() + WAKE_UP_SECONDS
    taken = threading.Event()

    def take() -> None:
        """A worker that is never behind."""
        nonlocal sent
        while not taken.wait(0.02):
            while client.lpop(f"rq:queue:{queue.QUEUE}"):
                sent += 1

    taker = threading.Thread(target=take)
    taker.start()
    while time.monotonic() < until:
        for _ in range(5):
            work.note(inbox.Outcome.STORED.value, "", 0.001)
            events += 1
        time.sleep(0.001)
    work.stop()
    time.sleep(0.1)
    taken.set()
    taker.join()
    client.close()
    services.close()
    return {"events": events, "seconds": WAKE_UP_SECONDS, "jobs": sent, "jobs_per_event": sent / events}


# -- What is told ------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def ratios(points: Sequence[Point], case: str, reference: str) -> list[float]:
    """Links for each second of CPU against the reference, round by round."""
    by_round = {one.round: one.per_cpu_second for one in points if one.case == reference}
    return [
        one.per_cpu_second / by_round[one.round]
        for one in points
        if one.case == case and one.round in by_round
    ]


def summarise(points: Sequence[Point]) -> list[dict[str, Any]]:
    """One line for each case."""
    lines: list[dict[str, Any]] = []
    for case in CASES:
        own = [one for one in points if one.case == case.name]
        if own:
            lines.append(
                {
                    "case": case.name,
                    "links": own[0].links,
                    "jobs": statistics.median(one.jobs for one in own),
                    "calls": statistics.median(one.calls for one in own),
                    "per_cpu_second": spread([one.per_cpu_second for one in own]),
                    "cpu_ms_per_link": spread([1000 / one.per_cpu_second for one in own]),
                    "per_second": spread([one.per_second for one in own]),
                    "ratios": {
                        reference: spread(found)
                        for reference in REFERENCES
                        if (found := ratios(points, case.name, reference))
                    },
                }
            )
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines, for people."""
    cells = [
        ["", "links", "RQ jobs", "Wix calls", "links/CPU s", "CPU ms/link", "links/s"]
        + [f"x {name}" for name in REFERENCES]
    ]
    for line in lines:
        row = [line["case"], f"{line['links']}", f"{line['jobs']:.0f}", f"{line['calls']:.0f}"]
        row += [
            f"{line['per_cpu_second']['median']:,.1f}",
            f"{line['cpu_ms_per_link']['median']:,.2f}",
            f"{line['per_second']['median']:,.1f}",
        ]
        for name in REFERENCES:
            found = line["ratios"].get(name)
            row.append(
                f"{found['median']:,.1f} ({found['least']:,.1f}-{found['most']:,.1f})" if found else "-"
            )
        cells.append(row)
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
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
    options = _options()

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    # Whatever ends us, what we started is stopped on the way out.
    signal.signal(signal.SIGTERM, end)
    folder = Path(tempfile.mkdtemp(prefix="processor-bench-"))
    folder.chmod(0o755)
    try:
        run(options, folder)
    except Mismatch as why:
        raise SystemExit(f"The benchmark FAILED: {why}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Every round, every case; tells and writes what came of it."""
    began = datetime.now(UTC)
    logs.configure("ERROR", "console", process="bench")
    shape = machine.shape()
    chosen = [case for case in CASES if case.name in options.cases]
    print(
        f"{shape['cores']} cores, {shape['memory_gb']} GB, {shape['system']} {shape['kernel']}, Python"
        f" {shape['python']}; {options.links} links of {SITES} instances, {EVENTS} events each, seed {options.seed}.",
        flush=True,
    )
    points: list[Point] = []
    with _bench(options, folder) as bench:
        for number in range(options.rounds):
            turn = number % len(chosen)
            for case in chosen[turn:] + chosen[:turn]:
                point = bench.measure(case, number + 1)
                points.append(point)
                print(
                    f"  round {point.round}  {point.case:<24} {point.links:>5} links {point.jobs:>5} jobs"
                    f" {point.calls:>5} calls {point.cpu_seconds:>7.2f} s of CPU {point.seconds:>7.2f} s",
                    flush=True,
                )
        woken = wake_ups(bench)
    lines = summarise(points)
    print(f"\n{table(lines)}")
    print(
        f"\nMedians over {options.rounds} rounds; in brackets least and most. x: links for each second of the worker's"
        " CPU against that case in the same round; all results proved."
        f"\nWake-ups: {woken['jobs']:.0f} jobs for {woken['events']:,.0f} events in {woken['seconds']:.0f} s, which is"
        f" {woken['jobs_per_event']:.5f} for each event."
    )
    if options.json is not None:
        options.json.write_text(
            json.dumps(
                {
                    "began_at": began.isoformat(timespec="seconds"),
                    "seconds_taken": round((datetime.now(UTC) - began).total_seconds(), 1),
                    "settings": {name: value for name, value in vars(options).items() if name != "json"},
                    "machine": shape,
                    "versions": machine.packages(),
                    "commit": machine.commit(ROOT),
                    "summary": lines,
                    "wake_ups": woken,
                    "points": [asdict(point) for point in points],
                },
                indent=1,
                default=str,
            )
            + "\n"
        )
    for line in lines:
        if line["case"] == CASES[-1].name:
            for name, found in line["ratios"].items():
                if found["median"] < GOAL and name != "event, no fork":
                    print(f"Below the goal of {GOAL} times: {found['median']:.1f} times {name}.")


@contextmanager
def _bench(options: argparse.Namespace, folder: Path) -> Iterator[Bench]:
    """Servers, a loaded pretend Wix, and books."""
    links = options.links + SITES  # one of each instance is for warming up
    volume = {"payments": links * EVENTS, "links": links, "sites": SITES, "seed": options.seed}
    with (
        a_loaded_sandbox(folder, **volume) as control,
        machine.start_servers(folder / "servers") as servers,
    ):
        migrations.upgrade(database_url(servers.database_url))
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute(NAIVE_SCHEMA)
        ours = {declared.variable for declared in declared_settings().values()}
        environ = {name: value for name, value in os.environ.items() if name not in ours} | {
            "DATABASE_URL": servers.database_url,
            "REDIS_URL": servers.redis_url,
            **settings_for(control),
            "PYTHONPATH": str(ROOT),
        }
        bench = Bench(folder, servers, control, environ)
        bench.fill()
        yield bench


def _options() -> argparse.Namespace:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checks",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog="Everything stays on this machine, and is stopped and removed at the end.",
    )
    parser.add_argument("--rounds", type=int, help="how often each case is measured (3)")
    parser.add_argument("--links", type=int, help="payment links (600)")
    parser.add_argument("--case", action="append", dest="cases", choices=names, help="only this; repeatable")
    parser.add_argument("--seed", type=int, default=1, help="of links and payments (1)")
    parser.add_argument("--json", type=Path, help="write everything to this file as well")
    parser.add_argument("--quick", action="store_true", help="one round of 200 links")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.links = options.links or (200 if options.quick else 600)
    options.cases = options.cases or names
    if options.rounds < 1 or options.links < PLANTED_EACH:
        parser.error(f"--rounds must be at least 1 and --links at least {PLANTED_EACH}")
    return options


if __name__ == "__main__":
    main()
