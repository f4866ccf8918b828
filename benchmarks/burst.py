"""A burst as after an outage of ours: many events at once, a fifth of them twice, in no order.

    .venv/bin/python -m benchmarks --only burst

64 connections, closed loop. What is not answered 200 is sent again until it is, as Wix does. At the end the events
answered 200 must be those stored, each payment booked once, and each event's count of deliveries between how often
it was answered 200 and how often it was sent. The memory of the web processes is read on the way.
"""

from __future__ import annotations

import random
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from benchmarks import machine, tokens
from benchmarks.designs import DESIGNS, OURS
from benchmarks.intake import Bench, Load, Mismatch, _answers, opened
from processor.processes import free_port, wait_until

CONNECTIONS = 64
STEPS = (0.2, 0.4, 0.6, 0.8, 1.0)
LOOK_SECONDS = 0.05
PASSES_MAX = 50
RECORD = struct.Struct("=II")  # of the ledger


@dataclass(frozen=True, slots=True)
class Options:
    """events: deliveries in all. duplicates: share of them that repeat another."""

    events: int = 100_000
    duplicates: float = 0.2
    seed: int = 1


@dataclass(slots=True)
class Memory:
    """Resident memory in kB of each web process by the share of the burst that was answered."""

    samples: dict[float, dict[int, int]] = field(default_factory=dict)

    def growth(self) -> float | None:
        """Of the process that grew most, from a fifth of the burst to its end; None where it is not known."""
        first, last = self.samples.get(STEPS[0]), self.samples.get(STEPS[-1])
        if not first or not last:
            return None
        grown = [last[pid] / first[pid] - 1 for pid in first if pid in last]
        return max(grown, default=None)


def run(options: Options, folder: Path) -> dict[str, Any]:
    """One burst; tells what came of it, and returns it for a file. Raises Mismatch."""
    distinct = max(1, round(options.events * (1 - options.duplicates)))
    print(
        f"\nBurst: {options.events:,} deliveries of {distinct:,} events in no order, {CONNECTIONS} connections."
        f"\nSigning {distinct:,} events (seed {options.seed}).",
        flush=True,
    )
    made = tokens.make(folder / "bodies", distinct, seed=options.seed, duplicates=0)
    source = random.Random(f"{options.seed}/burst")  # noqa: S311 (an order, no secret)
    order = list(range(distinct)) + source.choices(range(distinct), k=options.events - distinct)
    source.shuffle(order)
    memory = Memory()
    with opened(folder, made, seconds=0, warm_up=0) as bench, _served(bench) as (port, pid):
        sent, answered, passes = _send_all(bench, port, pid, order, memory)
        resent_by_client = sum(one["resent"] for one in passes)
        booked = _verify(bench, sent, answered, resent_by_client)
    growth = memory.growth()
    workers = max((len(sizes) for sizes in memory.samples.values()), default=0)
    first = passes[0]
    refused = sum(count for one in passes for status, count in one["statuses"].items() if status != "200")
    unanswered = sum(one["unanswered"] for one in passes)
    print(
        f"  {first['per_second']:,.0f} events/s, p99 {first['p99_ms']:,.1f} ms, p99.9 {first['p999_ms']:,.1f} ms;"
        f" {refused:,} answers not 200 and {unanswered:,} requests unanswered, sent again in {len(passes) - 1} passes."
        f"\n  {len(answered):,} events answered 200 are the {booked['events']:,} stored;"
        f" {booked['payments']:,} payments, each booked once; {booked['deliveries']:,} deliveries counted."
    )
    print(memory_table(memory))
    return {
        "settings": asdict(options) | {"connections": CONNECTIONS},
        "passes": passes,
        "refused": refused,
        "unanswered": unanswered,
        "events_answered": len(answered),
        "booked": booked,
        "memory_kb": {
            # Processes by number, since their ids say nothing.
            f"{share:.0%}": list(sizes.values())
            for share, sizes in sorted(memory.samples.items())
        },
        "web_processes": workers,
        "memory_growth": growth,
    }


@contextmanager
def _served(bench: Bench) -> Iterator[tuple[int, int]]:
    """Ours over emptied tables: port and the server's process."""
    [ours] = [design for design in DESIGNS if design.name == "ours"]
    port = free_port()
    child = bench._child(ours, port)
    child.start()
    try:
        wait_until(lambda: _answers(port), what="ours", seconds=60, children=[child])
        bench._empty(OURS)
        yield port, child.pid
    finally:
        child.stop()


def _send_all(
    bench: Bench, port: int, pid: int, order: Sequence[int], memory: Memory
) -> tuple[Counter[UUID], Counter[UUID], list[dict[str, Any]]]:
    """Send until everything is answered 200: how often each event was sent, and answered 200, and each pass."""
    sent, answered = Counter[UUID](), Counter[UUID]()
    passes: list[dict[str, Any]] = []
    left = list(order)
    while left:
        if len(passes) == PASSES_MAX:
            raise Mismatch(f"burst: {len(left)} events not answered 200 after {PASSES_MAX} passes")
        file, ledger = bench.folder / "burst", bench.folder / "ledger"
        tokens.write_some(bench.tokens.file, file, left)
        ledger.unlink(missing_ok=True)
        # Memory is told by how much of the burst is done, which is the first pass but for what was refused.
        total = len(left) if not passes else 0
        with _sampled(pid, ledger, total, memory):
            passes.append(
                bench._run(
                    *(port, Load(min(CONNECTIONS, len(left)), None), max(60.0, len(left) / 20)),
                    wraps=False,
                    ledger=ledger,
                    file=file,
                )
            )
        is_done = bytearray(len(left))
        for index, status in RECORD.iter_unpack(ledger.read_bytes()):
            event_id = bench.tokens.deliveries[left[index]].event_id
            sent[event_id] += 1
            if status == 200:
                answered[event_id] += 1
                is_done[index] = 1
        left = [place for place, done in zip(left, is_done, strict=True) if not done]
    memory.samples[STEPS[-1]] = _sizes(pid)
    return sent, answered, passes


def _sizes(pid: int) -> dict[int, int]:
    """Of the web processes; the one that minds them takes no events."""
    sizes = machine.resident_kb(pid) or {}
    return {one: size for one, size in sizes.items() if one != pid}


@contextmanager
def _sampled(pid: int, ledger: Path, total: int, memory: Memory) -> Iterator[None]:
    """Read memory whenever another step of `total` deliveries is done, as the ledger grows."""
    done = threading.Event()

    def look() -> None:
        steps = list(STEPS[:-1]) if total else []
        while steps and not done.wait(LOOK_SECONDS):
            size = ledger.stat().st_size if ledger.exists() else 0
            while steps and size / RECORD.size / total >= steps[0]:
                memory.samples[steps.pop(0)] = _sizes(pid)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _verify(
    bench: Bench, sent: Mapping[UUID, int], answered: Mapping[UUID, int], resent_by_client: int
) -> dict[str, int]:
    """What is stored, as numbers. resent_by_client: at most so many more may have been delivered. Raises Mismatch."""
    with psycopg.connect(bench.servers.postgres.url_of(OURS.database)) as connection:
        rows = connection.execute(
            "SELECT event_id, entity_id, delivery_count, conflict_count FROM webhook_events"
        ).fetchall()
        payments = [row[0] for row in connection.execute("SELECT payment_id FROM payments")]
        told = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE verdict = 'new') FROM payment_tellings"
        ).fetchone()
        [[kept]] = connection.execute("SELECT count(*) FROM webhook_event_tokens").fetchall()
        assert OURS.unasked is not None
        [[unasked]] = connection.execute(OURS.unasked).fetchall()
    assert told is not None
    stored = {row[0]: row[2] for row in rows}
    wanted = {one.payment_id for one in bench.tokens.deliveries if one.event_id in answered}
    too_few = sum(stored.get(event_id, 0) < count for event_id, count in answered.items())
    beyond = sum(max(0, count - sent.get(event_id, 0)) for event_id, count in stored.items())
    faults = {
        "events answered 200 and not stored": len(answered.keys() - stored.keys()),
        "events stored and not answered 200": len(stored.keys() - answered.keys()),
        "events stored more than once": len(rows) - len(stored),
        "events whose token is not kept once": abs(kept - len(stored)),
        "payments missing": len(wanted - set(payments)),
        "payments booked that nobody told of": len(set(payments) - wanted),
        "payments booked more than once": len(payments) - len(set(payments)),
        "payments told more or less than once": abs(told[0] - len(payments)) + abs(told[1] - len(payments)),
        "events stored without asking for a check": unasked,
        "events with fewer deliveries counted than were answered 200": too_few,
        "deliveries counted that were never sent": max(0, beyond - resent_by_client),
        "conflicts": sum(row[3] for row in rows),
    }
    if found := ", ".join(f"{count} {what}" for what, count in faults.items() if count):
        raise Mismatch(f"burst: of {len(answered)} events answered 200 and {len(stored)} stored: {found}")
    return {"events": len(stored), "payments": len(payments), "deliveries": sum(stored.values())}


def memory_table(memory: Memory) -> str:
    """Resident memory over the burst, for people."""
    pids = sorted({pid for sizes in memory.samples.values() for pid in sizes})
    if not pids:
        return "  Memory is not known on this system."
    shares = sorted(memory.samples)
    lines = ["  resident MB     " + "".join(f"{share:>9.0%}" for share in shares) + "   growth"]
    for number, pid in enumerate(pids, start=1):
        sizes = [memory.samples[share].get(pid) for share in shares]
        told = "".join(f"{size / 1024:>9.1f}" if size else f"{'-':>9}" for size in sizes)
        first, last = memory.samples.get(STEPS[0], {}).get(pid), memory.samples[shares[-1]].get(pid)
        growth = f"{last / first - 1:>+9.1%}" if first and last else f"{'-':>9}"
        lines.append(f"  web process {number:<4}{told}{growth}")
    return "\n".join(lines)
