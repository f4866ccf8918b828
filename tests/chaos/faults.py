"""Every fault: its name, the classes of promises it is of, how it is done and undone. `faults()` lists them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import psycopg
import redis

from processor.errors import ProcessorError
from processor.processes import free_port
from tests.chaos.deploy import Before, code_before, deploy
from tests.chaos.events import Step, new_key
from tests.chaos.proxy import HARMFUL, Mode
from tests.chaos.shims import NO_SPACE, READ_ONLY
from tests.chaos.world import LEASE_SECONDS, LINKS, WEBS, WORKERS, World

DATABASE = "processor"
BURST_TIMES = 10

Strike = Callable[[World, random.Random], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. kind: what it is reported under. part: what it hurts; two of one part are not paired.

    strike: does it, lets it last, and undoes it, with `world.heal()` when nothing is in the way any more. weight: how
    often it is drawn beside others.
    """

    name: str
    part: str
    classes: tuple[int, ...]
    summary: str
    strike: Strike
    weight: float = 1.0
    needs_shims: bool = False
    kind: str = ""
    is_paired: bool = True

    @property
    def family(self) -> str:
        """The line of the report it belongs to."""
        return self.kind or self.name


def moment(world: World, source: random.Random, low: float = 0.2, high: float = 1.2) -> None:
    """A random while."""
    world.pause(source.uniform(low, high))


# -- Processes of the service ------------------------------------------------------------------------


def kill_web(world: World, source: random.Random) -> None:
    moment(world, source, 0, 0.5)
    world.kill(source.choice(WEBS))
    moment(world, source, 0, 0.5)
    world.heal()


def kill_both_webs(world: World, source: random.Random) -> None:
    moment(world, source, 0, 0.5)
    for web in WEBS:
        world.kill(web)
    moment(world, source)
    world.heal()


def kill_worker(world: World, source: random.Random) -> None:
    world.send_probe()
    moment(world, source, 0, 0.4)
    world.kill(source.choice(WORKERS))
    moment(world, source, 0, 0.4)
    world.heal()


def kill_workers_again_and_again(world: World, source: random.Random) -> None:
    for _ in range(3):
        world.send_probe()
        for worker in WORKERS:
            world.kill(worker)
            world.children[worker].start()
        moment(world, source, 0.3, 1.5)  # while they start, or work
    world.heal()


def freeze_worker(world: World, source: random.Random) -> None:
    """Both are held past their lease, one after the other wakes up: each finds its links taken over."""
    world.send_probe()
    frozen = source.sample(WORKERS, source.choice((1, 2)))
    for worker in frozen:
        world.send_signal(worker, signal.SIGSTOP)
    world.pause(LEASE_SECONDS + source.uniform(0.1, 1.0))
    world.heal()
    for worker in frozen:
        world.send_signal(worker, signal.SIGCONT)


def freeze_web(world: World, source: random.Random) -> None:
    web = source.choice(WEBS)
    world.send_signal(web, signal.SIGSTOP)
    moment(world, source, 0.5, 2.5)
    world.heal()
    world.send_signal(web, signal.SIGCONT)


def kill_clock(world: World, source: random.Random) -> None:
    world.kill("clock")
    moment(world, source, 0, 2)
    world.heal()


def double_clock(world: World, source: random.Random) -> None:
    second = world.make("clock-too", "clock")
    second.start()
    try:
        moment(world, source, 1.5, 3)
    finally:
        second.stop(5)
    world.heal()


def freeze_clock(world: World, source: random.Random) -> None:
    """Ticks are missed."""
    world.send_signal("clock", signal.SIGSTOP)
    moment(world, source, 1, 3)
    world.heal()
    world.send_signal("clock", signal.SIGCONT)


def step_clock(world: World, source: random.Random, who: str) -> None:
    assert world.clocks is not None
    seconds = source.choice((-86_400.0, -3_600.0, -30.0, 5.0, 20.0))
    if who == "web":
        seconds = source.choice((-86_400.0, -3_600.0, 60.0, 3_600.0, 86_400.0))
    world.clocks.step(who, seconds)
    try:
        moment(world, source, 0.5, 2.5)
    finally:
        world.heal()
        world.clocks.step(who, 0.0)


def rolling_deploy(world: World, source: random.Random) -> None:
    """SIGTERM one by one under load; the next goes when the new one is ready."""
    for name in WEBS:
        world.expected_down.add(name)
        began = time.monotonic()
        status = world.children[name].stop()
        world.stop_seconds.append(time.monotonic() - began)
        if status != 0:
            world.findings.wrong.append(f"{name} ended with {status} on SIGTERM")
        world.children[name] = world.make_web(name)
        world.children[name].start()
        world.await_web(name)
    for name in (*WORKERS, "clock"):
        world.expected_down.add(name)
        world.children[name].stop()
        world.children[name].start()
    world.heal()


def stop_everything(world: World, source: random.Random) -> None:
    """SIGTERM to every process at once, and all of them started anew."""
    names = (*WEBS, *WORKERS, "clock")
    for name in names:
        world.expected_down.add(name)
        world.children[name].request_stop()
    for name in names:
        world.children[name].stop()
    world.heal()


def rotate_key(world: World, source: random.Random) -> None:
    """The new key signs before it is configured, both serve while the servers are restarted, old resends still come."""
    new = new_key()
    world.sender.keys = [world.sender.keys[-1], new]
    moment(world, source, 0.2, 0.6)  # refused with 401, and sent again
    world.keys.append(new)
    for name in WEBS:
        world.expected_down.add(name)
        world.children[name].stop()
        world.children[name] = world.make_web(name)
        world.children[name].start()
        world.await_web(name)
    world.heal()


def two_versions(world: World, source: random.Random, before: Before) -> None:
    rate, world.sender.rate = world.sender.rate, 10.0  # the machine is small
    try:
        world.findings.add(deploy(world, before))
    finally:
        world.sender.rate = rate
    world.heal()


# -- PostgreSQL --------------------------------------------------------------------------------------


def kill_postgres(world: World, source: random.Random) -> None:
    moment(world, source, 0, 0.5)
    world.servers.postgres.kill()
    moment(world, source)
    world.heal()
    world.start_server(world.servers.postgres)


def restart_postgres(world: World, source: random.Random) -> None:
    moment(world, source, 0, 0.5)
    world.servers.postgres.stop()
    world.heal()
    world.start_server(world.servers.postgres)


def _backends(world: World, connection: psycopg.Connection[object]) -> list[int]:
    rows = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() ORDER BY pid",
        [DATABASE],
    ).fetchall()
    return [row[0] for row in rows]  # type: ignore[index]  # rows are tuples


def crash_backend(world: World, source: random.Random) -> None:
    """Kill -9 one backend: PostgreSQL ends all others and recovers from its log."""
    with world.admin() as connection:
        found = _backends(world, connection)
    world.heal()
    if found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(source.choice(found), signal.SIGKILL)


def terminate_backends(world: World, source: random.Random) -> None:
    with world.admin() as connection:
        for _ in range(source.randrange(1, 6)):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND pid <> pg_backend_pid()",
                [DATABASE],
            )
            moment(world, source, 0.02, 0.4)
    world.heal()


def cancel_statements(world: World, source: random.Random) -> None:
    with world.admin() as connection:
        for _ in range(40):
            connection.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND pid <> pg_backend_pid() AND state = 'active'",
                [DATABASE],
            )
            moment(world, source, 0.005, 0.04)
    world.heal()


def exhaust_connections(world: World, source: random.Random) -> None:
    """Strangers take every connection there is, then the service's own are ended: it finds none."""
    held: list[psycopg.Connection[object]] = []
    try:
        with world.admin() as connection:
            with contextlib.suppress(psycopg.OperationalError):
                while len(held) < 400:
                    held.append(psycopg.connect(world.admin_url, autocommit=True, connect_timeout=5))
            for _ in range(3):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [DATABASE]
                )
                with contextlib.suppress(psycopg.OperationalError):
                    while len(held) < 400:
                        held.append(psycopg.connect(world.admin_url, autocommit=True, connect_timeout=5))
            moment(world, source, 0.5, 2)
    finally:
        world.heal()
        for one in held:
            one.close()


def lock_table(world: World, source: random.Random) -> None:
    table = source.choice(("webhook_events", "payments", "payment_versions", "link_checks", "app_instances"))
    with world.books() as connection, connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '5s'")
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        moment(world, source, 0.3, 2)
    world.heal()


def deadlock(world: World, source: random.Random) -> None:
    """Take what the intake takes, in the other order. Ours waits long, so that the intake is the victim."""
    for _ in range(4):
        with (
            contextlib.suppress(psycopg.errors.DeadlockDetected),
            world.books() as connection,
            connection.transaction(),
        ):
            connection.execute("SET LOCAL deadlock_timeout = '10s'")
            connection.execute("SET LOCAL lock_timeout = '3s'")
            connection.execute("LOCK TABLE payment_versions IN SHARE ROW EXCLUSIVE MODE")
            moment(world, source, 0.1, 0.2)
            connection.execute("LOCK TABLE webhook_events IN SHARE ROW EXCLUSIVE MODE")
        moment(world, source, 0.05, 0.2)
    world.heal()


def freeze_postgres(world: World, source: random.Random) -> None:
    world.signal_server(world.servers.postgres, signal.SIGSTOP)
    try:
        moment(world, source, 0.5, 3)
    finally:
        world.heal()
        world.signal_server(world.servers.postgres, signal.SIGCONT)


def spoil_disk(world: World, source: random.Random, error: int, part: str) -> None:
    """Once the log cannot be written PostgreSQL gives up; then it is started anew on the healed disk."""
    assert world.disk is not None
    world.disk.refuse(error, part)
    try:
        if part == "/base/":
            # What is written to the tables comes later, by itself; a checkpoint brings it about.
            with contextlib.suppress(psycopg.Error), world.admin() as connection:
                connection.execute("SET statement_timeout = '1500ms'")
                connection.execute("CHECKPOINT")
        moment(world, source, 0.5, 2)
    finally:
        world.heal()
        world.disk.heal()
    world.start_server(world.servers.postgres)


# -- Valkey ------------------------------------------------------------------------------------------


def kill_valkey(world: World, source: random.Random) -> None:
    world.send_probe()
    world.servers.valkey.kill()
    moment(world, source)
    world.heal()
    world.start_server(world.servers.valkey)


def stop_valkey_for_long(world: World, source: random.Random) -> None:
    """Long beside every wait of ours: leases, resends, wake-ups."""
    world.servers.valkey.stop()
    world.send_probe()
    moment(world, source, 4, 7)
    world.heal()
    world.start_server(world.servers.valkey)


@contextlib.contextmanager
def _valkey(world: World) -> Iterator[redis.Redis]:
    client = world.valkey()
    try:
        yield client
    finally:
        client.close()


def flush_valkey(world: World, source: random.Random) -> None:
    with _valkey(world) as client:
        for _ in range(source.randrange(1, 4)):
            world.send_probe()
            moment(world, source, 0, 0.3)
            client.flushall()
    world.heal()


def evict_half(world: World, source: random.Random) -> None:
    """Lose what a failover to a late replica, or an eviction, loses: any half of the keys."""
    world.send_probe()
    moment(world, source, 0, 0.3)
    with _valkey(world) as client:
        for key in list(client.scan_iter(count=1_000)):
            if source.random() < 0.5:
                client.delete(key)
    world.heal()


def pop_jobs(world: World, source: random.Random) -> None:
    """Take jobs from the queue and do nothing with them, as a worker does that dies right after."""
    until = time.monotonic() + source.uniform(0.5, 1.5)
    with _valkey(world) as client:
        world.send_probe()
        while time.monotonic() < until:
            client.blpop(["rq:queue:reconcile"], timeout=0.2)
    world.heal()


def fill_valkey(world: World, source: random.Random) -> None:
    """It is out of memory: reading works, an enqueueing is refused."""
    with _valkey(world) as client:
        client.config_set("maxmemory", "1")
        try:
            world.send_probe()
            moment(world, source)
        finally:
            world.heal()
            client.config_set("maxmemory", "0")


def demote_valkey(world: World, source: random.Random) -> None:
    """It becomes the replica of a server that is gone, and takes no writing, as in a failover."""
    with _valkey(world) as client:
        client.replicaof("127.0.0.1", free_port())
        try:
            world.send_probe()
            moment(world, source)
        finally:
            world.heal()
            client.replicaof("NO", "ONE")


def freeze_valkey(world: World, source: random.Random) -> None:
    world.signal_server(world.servers.valkey, signal.SIGSTOP)
    try:
        moment(world, source, 0.5, 3)
    finally:
        world.heal()
        world.signal_server(world.servers.valkey, signal.SIGCONT)


# -- Links -------------------------------------------------------------------------------------------


def spoil_link(world: World, source: random.Random, link: str, mode: Mode) -> None:
    world.network.become(link, mode)
    try:
        if mode is Mode.RESET:
            for _ in range(source.randrange(1, 5)):
                moment(world, source, 0.02, 0.3)
                world.network.become(link, mode)
        else:
            moment(world, source, 0.3, 2)
    finally:
        world.heal()
        world.network.become(link, Mode.PASS)


# -- What comes in -----------------------------------------------------------------------------------


def burst(world: World, source: random.Random) -> None:
    """Ten times the mean for a second; most of it of one link, or of one site."""
    mint = world.mint.twin(source)
    hot = source.random() < 0.5
    noisy = source.choice(mint.instances)
    count = int(world.rate * BURST_TIMES)
    world.sender.burst(
        [
            Step([(source.uniform(0, 1), mint.payment(hot=hot, instance_id=None if hot else noisy), False)])
            for _ in range(count)
        ]
    )
    world.heal()


def one_event_at_once(world: World, source: random.Random) -> None:
    """One event, and updates of one payment, twenty times at once over both servers."""
    mint = world.mint.twin(source)
    steps = []
    for _ in range(5):
        one = mint.payment()
        more = [
            mint.payment(payment_id=one.payment_id, instance_id=one.instance_id, revision=revision)
            for revision in range(2, 12)
        ]
        source.shuffle(more)
        steps.append(
            Step([*((0.0, one, copy > 0) for copy in range(20)), *((0.0, told, False) for told in more)])
        )
    world.sender.burst(steps)
    world.heal()


def poison(world: World, source: random.Random) -> None:
    mint = world.mint.twin(source)
    world.sender.burst([Step([(source.uniform(0, 0.5), mint.poison(), False)]) for _ in range(40)])
    world.heal()


def forgeries(world: World, source: random.Random) -> None:
    mint, wrong = world.mint.twin(source), new_key()
    world.heal()
    for number in range(12):
        one = mint.forgery(world.key, wrong)
        entry = world.ledger.open(one.told)
        world.ledger.attempt(entry, b"")
        link = world.network.links[f"sender→{WEBS[number % 2]}"]
        said = world.sender.post(link.port, one.token)
        # Too large a body may be cut off while it is sent: refused all the same.
        world.ledger.answer(entry, said)
        if said.isdigit() and said != one.status:
            world.findings.wrong.append(f"a forgery was answered {said} instead of {one.status}")


def sandbox_drops(world: World, source: random.Random) -> None:
    """Webhooks that never come: a poll finds their payments."""
    world.control.post("faults", {"kind": "drop", "count": 6})
    for _ in range(3):
        world.send_probe()
    world.heal()


def sandbox_weather(world: World, source: random.Random) -> None:
    """Wix as it is at times: duplicates, disorder, 429, 5xx, hangs, truncated answers, tokens that expired."""
    world.control.post("faults/mix", {"share": 0.3})
    try:
        for _ in range(4):
            world.send_probe()
            moment(world, source, 0.1, 0.4)
    finally:
        world.heal()
        world.control.delete("faults")
        world.control.post("deliveries/flush")


def kill_sandbox(world: World, source: random.Random) -> None:
    world.kill("sandbox")
    moment(world, source)
    world.heal()
    world.children["sandbox"].start()
    world.await_sandbox()


# -- The table ---------------------------------------------------------------------------------------

DISK_FULL = (
    ("disk full under the tables", NO_SPACE, "/base/"),
    ("disk full under the log", NO_SPACE, "/pg_wal/"),
    ("file system read-only", READ_ONLY, "/postgres-"),
)


LINK_CLASSES = {"postgres": (1, 5), "valkey": (3, 4), "wix": (16,)}


def faults() -> list[Fault]:
    """Every fault that can be drawn."""
    found = [
        Fault("kill -9 of a web server", "web", (1, 2), "with every process of it", kill_web, 3),
        Fault("kill -9 of both web servers", "web", (1, 2), "nobody answers for a while", kill_both_webs, 2),
        Fault("freeze a web server", "web", (1, 13), "SIGSTOP; its sockets still accept", freeze_web),
        Fault(
            "kill -9 of a worker",
            "worker",
            (2, 12, 13),
            "in the middle of a job, or starting",
            kill_worker,
            2,
        ),
        Fault(
            "kill -9 of both workers, thrice",
            "worker",
            (12, 13),
            "a job whose workers keep dying",
            kill_workers_again_and_again,
        ),
        Fault(
            "freeze workers past their lease",
            "worker",
            (12, 13, 14),
            "one or both, by SIGSTOP",
            freeze_worker,
            2,
        ),
        Fault("kill -9 of the clock", "clock", (15,), "and a pause without one", kill_clock, 2),
        Fault("a second clock", "clock", (15,), "both tick", double_clock),
        Fault("freeze the clock", "clock", (15,), "it misses ticks", freeze_clock),
        Fault("rolling deploy", "web", (22,), "SIGTERM one by one", rolling_deploy, 1, is_paired=False),
        Fault("restart of everything", "web", (22,), "SIGTERM at once", stop_everything, is_paired=False),
        Fault(
            "new signing key", "web", (20, 22), "signs before it is configured", rotate_key, is_paired=False
        ),
        Fault("kill -9 of PostgreSQL", "postgres", (5, 7), "its children end with it", kill_postgres, 2),
        Fault("restart of PostgreSQL", "postgres", (5, 7), "the fast way", restart_postgres, 2),
        Fault("kill -9 of a backend", "postgres", (5,), "PostgreSQL recovers from its log", crash_backend, 2),
        Fault("backends terminated", "postgres", (5,), "all, several times", terminate_backends, 2),
        Fault("statements cancelled", "postgres", (5,), "whatever is active, 40 times", cancel_statements),
        Fault("connections exhausted", "postgres", (5,), "up to max_connections", exhaust_connections),
        Fault("a table locked", "postgres", (5,), "ACCESS EXCLUSIVE", lock_table),
        Fault("deadlocks", "postgres", (5,), "locks taken in the other order", deadlock),
        Fault("PostgreSQL frozen", "postgres", (5,), "SIGSTOP of every backend", freeze_postgres, 2),
        Fault("kill -9 of Valkey", "valkey", (4, 7), "loses up to a second of writes", kill_valkey, 2),
        Fault(
            "Valkey away for long", "valkey", (4,), "4 to 7 s, past every wait of ours", stop_valkey_for_long
        ),
        Fault("FLUSHALL", "valkey", (4,), "one to three times", flush_valkey, 2),
        Fault("half of the keys lost", "valkey", (4,), "as by eviction or a late replica", evict_half),
        Fault("jobs popped, not registered", "valkey", (12,), "by a worker that dies at once", pop_jobs, 2),
        Fault("Valkey out of memory", "valkey", (3, 4), "enqueueing is refused", fill_valkey),
        Fault("Valkey demoted", "valkey", (4,), "a failover: writes are refused", demote_valkey),
        Fault("Valkey frozen", "valkey", (3, 4), "SIGSTOP", freeze_valkey, 2),
        Fault("burst", "load", (11,), "ten times the mean; one link or one site", burst, 2),
        Fault(
            "one payment at once",
            "load",
            (8, 9),
            "one event 20 times, ten revisions shuffled",
            one_event_at_once,
        ),
        Fault("poison events", "load", (20, 21), "broken JSON, NUL, huge numbers", poison),
        Fault(
            "forgeries",
            "load",
            (20,),
            "wrong key, none, HMAC, too large, expired",
            forgeries,
            is_paired=False,
        ),
        Fault("webhooks that never come", "wix", (10,), "dropped at the sandbox; polled", sandbox_drops),
        Fault("Wix's weather", "wix", (8, 9, 16), "a mix of the sandbox's faults", sandbox_weather),
        Fault("kill -9 of the pretend Wix", "wix", (16,), "it resumes with what it kept", kill_sandbox),
    ]
    found.extend(
        Fault(
            name,
            "postgres",
            (6,),
            f"writes to {part.strip('/-')} fail",
            partial(spoil_disk, error=error, part=part),
            needs_shims=True,
        )
        for name, error, part in DISK_FULL
    )
    found.extend(
        Fault(
            f"clock step of {who}",
            f"clock-{who}",
            (15,),
            "forward or back, then right again",
            partial(step_clock, who=who),
            needs_shims=True,
            kind="clock steps",
        )
        for who in ("web", "worker", "clock")
    )
    found.extend(
        Fault(
            f"{mode} {link}",
            link,
            LINK_CLASSES.get(link.rpartition("→")[2], (1,)),
            "cut, stalled, reset, blacked out, answers swallowed",
            partial(spoil_link, link=link, mode=mode),
            0.45,
            kind=f"link {link}",
        )
        for link in LINKS
        for mode in HARMFUL
    )
    before = code_before()
    if isinstance(before, Before):
        found.append(
            Fault(
                "two versions and a migration",
                "deploy",
                (22,),
                "old code, migrated beneath, old and new, back, on",
                partial(two_versions, before=before),
                0.2,
                is_paired=False,
            )
        )
    return found


def left_out(world: World) -> list[str]:
    """What cannot be done on this machine, and why."""
    found: list[str] = []
    if world.no_shims is not None:
        names = ", ".join(one.name for one in faults() if one.needs_shims)
        found.append(f"{names}: {world.no_shims}")
    before = code_before()
    if isinstance(before, str):
        found.append(f"two versions and a migration: {before}")
    return found


class Drawer:
    """Draws faults from a seed, single ones and pairs."""

    def __init__(self, source: random.Random, possible: list[Fault], *, pair_share: float = 0.2) -> None:
        self._random = source
        self._possible = possible
        self._paired = [one for one in possible if one.is_paired]
        self._pair_share = pair_share
        self._due = list(possible)
        source.shuffle(self._due)

    def draw(self) -> tuple[Fault, ...]:
        """The next: first each kind once, in a shuffled order, then by weight; at times two of different parts."""
        if self._random.random() < self._pair_share:
            first = self._of(self._paired)
            others = [
                one for one in self._paired if one.part.partition("-")[0] != first.part.partition("-")[0]
            ]
            return first, self._of(others)
        if self._due:
            return (self._due.pop(),)
        return (self._of(self._possible),)

    def _of(self, possible: list[Fault]) -> Fault:
        return self._random.choices(possible, [one.weight for one in possible])[0]


def strike(world: World, chosen: tuple[Fault, ...], source: random.Random) -> list[str]:
    """Do one fault, or two at once. Returns what cut a fault short: its partner may take away what it works with."""
    notes: list[str] = []
    mine = [random.Random(source.getrandbits(64)) for _ in chosen]

    def do(fault: Fault, own: random.Random) -> None:
        try:
            fault.strike(world, own)
        except (psycopg.Error, redis.RedisError, ProcessorError, OSError) as why:
            notes.append(f"{fault.name} was cut short by {type(why).__name__}")

    world.fault = " + ".join(one.name for one in chosen)
    world.heal()
    threads = [threading.Thread(target=do, args=pair) for pair in zip(chosen, mine, strict=True)]
    if len(threads) == 1:
        do(chosen[0], mine[0])
    else:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    world.calm()
    world.ensure_up()
    return notes
