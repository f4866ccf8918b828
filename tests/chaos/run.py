"""The run: faults drawn by a seed, the proof after each, and a report.

python -m tests.chaos --faults 500 --seed 7 --report docs/chaos.md
"""

from __future__ import annotations

import json
import random
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import click
import psycopg
import redis

from benchmarks import machine
from processor.errors import ProcessorError
from tests.chaos import report
from tests.chaos.faults import Drawer, Fault, faults, left_out, strike
from tests.chaos.verify import Findings
from tests.chaos.world import NotRecovered, Probe, World

ROOT = Path(__file__).resolve().parents[2]
WHOLE_EVERY = 25  # faults between two comparisons of everything; each is followed by one of what is new
MATCHED_SECONDS = 2.0  # how long the next fault waits for the probe of the last to be matched


@dataclass(slots=True)
class Struck:
    """One fault, or two at once. intake: seconds until every web server answered 200 again."""

    names: list[str]
    families: list[str]
    intake: float
    lost: int
    doubled: int
    regressed: int
    wrong: int
    cut_unanswered: int
    seconds: float
    notes: list[str]
    probe: Probe | None = None


@dataclass(slots=True)
class Outcome:
    """A whole run."""

    seed: int
    began: str
    rate: float = 0.0
    seconds: float = 0.0
    struck: list[Struck] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    answers: dict[str, int] = field(default_factory=dict)
    bodies: int = 0
    answered: int = 0
    given_up: int = 0
    stop_seconds: list[float] = field(default_factory=list)
    sandbox_payments: int = 0
    exits: list[tuple[str, str, str]] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    evidence: dict[str, int] = field(default_factory=dict)
    failure: str | None = None
    commit: str | None = None
    machine: dict[str, object] = field(default_factory=dict)

    @property
    def load_at_start(self) -> list[float]:
        """The machine's load averages before the run."""
        found = self.machine.get("load_at_start")
        return [float(one) for one in found] if isinstance(found, list) else []

    @property
    def is_good(self) -> bool:
        """Whether nothing was found and everything came back."""
        return not self.findings and self.failure is None


def run(
    seed: int,
    count: int,
    *,
    rate: float = 60.0,
    only: Callable[[Fault], bool] = lambda fault: True,
    pair_share: float = 0.2,
    say: Callable[[str], None] = lambda line: None,
    seconds: float | None = None,
    at_least: int = 0,
    is_short: bool = False,
) -> Outcome:
    """Strike `count` times, and prove it.

    seconds: after so long no further fault begins, once there were `at_least`. is_short: do not wait for the books of
    the sandbox's site, where a job that was lost is enqueued again after 30 s only.
    """
    outcome = Outcome(seed, datetime.now(UTC).isoformat(timespec="seconds"), rate, machine=machine.shape())
    outcome.commit = machine.commit(ROOT)
    began = time.monotonic()
    source = random.Random(seed)
    with World(seed, rate=rate) as world:
        outcome.left_out = left_out(world)
        possible = [one for one in faults() if only(one) and not (one.needs_shims and world.no_shims)]
        drawer = Drawer(source, possible, pair_share=pair_share)
        first, last = time.monotonic(), str(Findings())
        try:
            for number in range(1, count + 1):
                is_late = seconds is not None and time.monotonic() - first > seconds
                if is_late and number > at_least:
                    break
                struck = _one(world, drawer.draw(), source, whole=number % WHOLE_EVERY == 0)
                outcome.struck.append(struck)
                say(
                    f"{number:4} {' + '.join(struck.names)}: back after {struck.intake:.2f} s,"
                    f" lost {struck.lost}, doubled {struck.doubled}, regressed {struck.regressed},"
                    f" wrong {struck.wrong} ({struck.seconds:.1f} s,"
                    f" {struck.cut_unanswered} cut)" + "".join(f"; {note}" for note in struck.notes)
                )
                if (told := str(world.findings)) != last:
                    say(told)
                    last = told
            world.drain()
            world.check(whole=True)
            if not is_short:
                say("drained; waiting for the sandbox's books")
                world.await_truth()
            outcome.evidence = world.evidence()
            with world.books() as connection:
                row = connection.execute(
                    "SELECT count(*) FROM payments WHERE instance_id = %s", [world.instance_id]
                ).fetchone()
                outcome.sandbox_payments = row[0] if row else 0
        except (NotRecovered, ProcessorError, AssertionError, psycopg.Error, redis.RedisError) as why:
            outcome.failure = f"after {world.fault}: {type(why).__name__}: {why}"
            say(outcome.failure)
        outcome.findings = world.findings
        outcome.answers = dict(world.ledger.answers.most_common())
        outcome.bodies = len(world.ledger.entries)
        outcome.answered = world.ledger.answered_count()
        outcome.restarted = world.restarted
        outcome.stop_seconds = world.stop_seconds
        outcome.given_up = world.ledger.given_up_count()
        outcome.exits = [(one.process, one.fault, one.tail) for one in world.exits]
    outcome.seconds = time.monotonic() - began
    return outcome


def _one(world: World, chosen: tuple[Fault, ...], source: random.Random, *, whole: bool) -> Struck:
    began = time.monotonic()
    before = [len(one) for one in _found(world)]
    cut_before = sum(link.cut_unanswered for name, link in world.network.links.items() if "sender" in name)
    notes = strike(world, chosen, source)
    intake = world.await_intake()
    cut_after = sum(link.cut_unanswered for name, link in world.network.links.items() if "sender" in name)
    probe = world.send_probe()
    if probe is not None:
        pause, ends = world.pause, time.monotonic() + MATCHED_SECONDS
        while probe.matched is None and time.monotonic() < ends:
            pause(0.05)
    _proof(world, whole=whole)
    new = [len(now) - then for now, then in zip(_found(world), before, strict=True)]
    return Struck(
        names=[one.name for one in chosen],
        families=[one.family for one in chosen],
        intake=intake,
        lost=new[0],
        doubled=new[1],
        regressed=new[2],
        wrong=new[3],
        cut_unanswered=cut_after - cut_before,
        seconds=time.monotonic() - began,
        notes=notes,
        probe=probe,
    )


def _found(world: World) -> tuple[list[str], ...]:
    found = world.findings
    return found.lost, found.doubled, found.regressed, found.wrong


def _proof(world: World, *, whole: bool) -> None:
    """Compare; PostgreSQL may still be about to recover from what it was done."""
    try:
        world.check(whole=whole)
    except psycopg.OperationalError:
        world.start_server(world.servers.postgres)
        world.await_intake()
        world.check(whole=True)  # whatever was to be looked at


def _end(number: int, frame: FrameType | None) -> None:
    """Leave by the way that ends every process and removes every file."""
    raise SystemExit(128 + number)


@click.command()
@click.option("--faults", "count", default=500, show_default=True, help="How many, pairs counted once.")
@click.option("--seed", type=int, help="The same seed draws the same faults; a new one each time without it.")
@click.option("--rate", default=60.0, show_default=True, help="Bodies a second.")
@click.option("--minutes", type=float, help="Begin no further fault after so long.")
@click.option("--only", help="Only faults with this text in their name.")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write the report there.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every figure there.")
def main(
    count: int,
    seed: int | None,
    rate: float,
    minutes: float | None,
    only: str | None,
    report_file: Path | None,
    json_file: Path | None,
) -> None:
    """Hurt a whole system, and prove that intake loses nothing."""
    signal.signal(signal.SIGTERM, _end)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    click.echo(f"seed {seed}")
    outcome = run(
        seed,
        count,
        rate=rate,
        only=(lambda fault: only in fault.name) if only else lambda fault: True,
        pair_share=0.0 if only else 0.2,
        say=click.echo,
        seconds=None if minutes is None else minutes * 60,
    )
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(outcome), indent=1, default=str))
    if report_file is not None:
        report_file.write_text(report.text(outcome))
    lost, doubled, regressed = (
        len(outcome.findings.lost),
        len(outcome.findings.doubled),
        len(outcome.findings.regressed),
    )
    click.echo(
        f"seed {seed}: {len(outcome.struck)} faults, {outcome.answered} events answered 200;"
        f" lost {lost}, doubled {doubled}, regressed {regressed}, wrong {len(outcome.findings.wrong)}"
    )
    for process, during, tail in outcome.exits:
        click.echo(f"{process} ended by itself during {during}:\n{tail}")
    if not outcome.is_good:
        click.echo(outcome.failure or str(outcome.findings))
        raise SystemExit(1)
