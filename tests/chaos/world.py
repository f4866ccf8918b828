"""Everything that is to be hurt: real processes over real sockets, every link between them through a proxy.

    sender, sandbox ─▶ 2 web servers ─▶ PostgreSQL, Valkey ◀─ 2 workers, clock ─▶ sandbox

Two kinds of events come in. The sender's are of sites that only the ledger knows; they come fast and are compared by
id. The sandbox's are of a site at which buyers pay; they come slowly and go the whole way, to a check at Wix.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from processor import embedded
from processor.config import database_url as sqlalchemy_url
from processor.config import declared_settings
from processor.errors import ProcessorError
from processor.outgoing import is_local_ready
from processor.processes import Child, ChildFailed, free_port, wait_until
from processor.store import migrations
from processor.store.database import open_database
from processor.system import PACE, Control, differences
from processor.wix import wire
from processor.wix.client import WixClient
from processor.wix.credentials import OAuthCredentials
from tests.chaos import shims
from tests.chaos.events import Mint, new_key, public_text, sign
from tests.chaos.ledger import Ledger
from tests.chaos.proxy import Mode, Network
from tests.chaos.sender import Sender
from tests.chaos.verify import Findings, check_all, check_fresh

LOCALHOST = "127.0.0.1"
COMPILED = Path(__file__).resolve().parents[2] / ".pytest_cache" / "compiled"
LEASE_SECONDS = 3.0
RECOVER_SECONDS = 180.0  # a start takes half a minute where many others compute
STUCK_SECONDS = 15.0
WEBS = ("web-a", "web-b")
WORKERS = ("worker-a", "worker-b")
LINKS = (
    *("sender→web-a", "sender→web-b", "web→postgres", "web→valkey"),
    *("worker→postgres", "worker→valkey", "worker→wix", "clock→postgres", "clock→valkey"),
)
PAYS_PER_LINK = 15
LOG_WORDS = (
    "No space left on device",
    "Read-only file system",
    "PANIC",
    "deadlock detected",
    "too many clients already",
    "remaining connection slots are reserved",
    "terminating connection due to administrator command",
    "canceling statement due to user request",
    "canceling statement due to lock timeout",
    "database system was not properly shut down",
)
COUNTED = {
    "deliveries beyond the first of an event": "SELECT sum(delivery_count - 1) FROM webhook_events",
    "contents under an event id that had another": "SELECT count(*) FROM webhook_event_conflicts",
    "events that cannot be read, kept": "SELECT count(*) FROM webhook_events WHERE status = 'unreadable'",
    "deliveries of no instance, kept": "SELECT count(*) FROM unread_deliveries",
    "deliveries refused as not Wix's": "SELECT sum(delivery_count) FROM rejection_counts",
    "links whose check another worker took over": (
        "SELECT sum(value) FROM counters WHERE label = 'check_links taken_over'"
    ),
    "payments first found by a poll": "SELECT count(*) FROM payments WHERE first_origin = 'poll'",
}


class NotRecovered(AssertionError):
    """The service did not come back by itself in time."""


@dataclass(slots=True)
class Probe:
    """A payment made after a fault. matched: seconds until it was booked and compared with Wix, None before."""

    fault: str
    began: float
    payment_ids: list[UUID]
    matched: float | None = None


@dataclass(slots=True)
class Exit:
    """A process that ended although nobody asked it to."""

    process: str
    fault: str
    tail: str = field(repr=False)


class World:
    """Start it with `with`. rate: bodies of the ledger's sites a second."""

    def __init__(self, seed: int, *, rate: float = 60.0) -> None:
        self.seed = seed
        self.folder = Path(tempfile.mkdtemp(prefix="processor-chaos-"))
        self.folder.chmod(0o755)  # root's servers run as another user
        self.random = random.Random(seed)
        self.network = Network()
        self.ledger = Ledger()
        self.mint = Mint(random.Random(f"{seed}/main"))
        self.key = new_key()
        self.keys = [self.key]
        self.rate = rate
        self.children: dict[str, Child] = {}
        self.exits: list[Exit] = []
        self.restarted: list[str] = []
        self.probes: list[Probe] = []
        self.stop_seconds: list[float] = []
        """How long each web server took to end on SIGTERM in a rolling deploy."""
        self.findings = Findings()
        self.began_healing = 0.0
        self.expected_down: set[str] = set()
        self.no_shims = shims.missing()
        self.disk: shims.Disk | None = None
        self.clocks: shims.Clocks | None = None
        self.fault = "none yet"
        self._stop = threading.Event()
        self._trade = threading.Thread(target=self._trading, name="trade", daemon=True)
        self._watch = threading.Thread(target=self._watching, name="probes", daemon=True)
        self._paid = 0

    # -- Start and end -------------------------------------------------------------------------------

    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        environ: Mapping[str, str] = os.environ
        if self.no_shims is None:
            tools = self.folder / "shims"
            tools.mkdir()
            tools.chmod(0o755)
            self.disk, self.clocks = shims.Disk(tools), shims.Clocks(tools)
            environ = self.disk.environ
        self.servers = embedded.start(self.folder / "servers", environ=environ)
        self.admin_url = self.servers.postgres.url_of("postgres")
        with self.admin() as connection:
            # Sooner than our statements give a lock up, so that deadlocks are found in them.
            connection.execute("ALTER SYSTEM SET deadlock_timeout = '100ms'")
            connection.execute("ALTER SYSTEM SET restart_after_crash = on")
            connection.execute("SELECT pg_reload_conf()")
        migrations.upgrade(sqlalchemy_url(self.servers.database_url))
        self._make_sandbox()
        self._make_service()
        for child in self.children.values():
            child.start()
        for web in WEBS:
            self.await_web(web)
        self.control.put(
            "webhook", {"url": f"http://{LOCALHOST}:{self.network.links['sender→web-a'].port}/webhooks/wix"}
        )
        self.instance_id = UUID(self.control.post("instances")["instanceId"])
        self.wix = self._client()
        self.sender = Sender(
            self.ledger,
            self.mint.twin(random.Random(f"{self.seed}/sender")),
            random.Random(f"{self.seed}/steps"),
            ports=[self.network.links[f"sender→{web}"].port for web in WEBS],
            rate=self.rate,
            key=self.key,
        )
        install(self.sender, self.mint, self.network.links["sender→web-a"].port, self.key)
        self.sender.start()
        self._trade.start()
        self._watch.start()

    def _make_sandbox(self) -> None:
        port = free_port()
        self.control = Control(f"http://{LOCALHOST}:{port}")
        options = ("--time-scale", "1200", "--calls-per-minute", "1000000")
        arguments = ("--port", str(port), "--data", str(self.folder / "sandbox"), *options)
        self.children["sandbox"] = self.child("sandbox", "sandbox", {}, *arguments)
        self.children["sandbox"].start()
        self.await_sandbox()
        self.network.add("worker→wix", port)

    def _make_service(self) -> None:
        app = self.control.get("app")
        self.web_ports = {web: free_port() for web in WEBS}
        for web, port in self.web_ports.items():
            self.network.add(f"sender→{web}", port)
        for who in ("web", "worker", "clock"):
            self.network.add(f"{who}→postgres", self.servers.postgres.port)
            self.network.add(f"{who}→valkey", self.servers.valkey.port)
        self.settings = {
            **PACE,
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "WEB_CONCURRENCY": "1",
            "WEB_THREADS": "64",
            "DATABASE_POOL_SIZE": "4",
            "WIX_TIMEOUT_SECONDS": "4",
            "SWEEP_SECONDS": "4",
            "WIX_CALLS_PER_MINUTE": "100000",
            "HOST": LOCALHOST,
            "WIX_APP_ID": app["appId"],
            "WIX_APP_SECRET": app["appSecret"],
            "WIX_API_URL": f"http://{LOCALHOST}:{self.network.links['worker→wix'].port}",
            "LOG_LEVEL": "WARNING",
        }
        self._sandbox_key = str(app["publicKey"])
        for web in WEBS:
            self.children[web] = self.make_web(web)
        for name in (*WORKERS, "clock"):
            self.children[name] = self.make(name, name.partition("-")[0])

    def make(self, name: str, command: str) -> Child:
        """A worker or clock, not started yet."""
        return self.child(name, command, self.environ_of(command))

    def make_web(self, name: str) -> Child:
        """A web server with the keys of this moment, not started yet."""
        return self.child(name, "serve", {**self.environ_of("web"), **self.web_environ(self.web_ports[name])})

    def web_environ(self, port: int) -> dict[str, str]:
        """What a web server needs beside what all need."""
        keys = [self._sandbox_key, *(public_text(key) for key in self.keys)]
        return {"PORT": str(port), "WIX_PUBLIC_KEYS": " ".join(keys)}

    def environ_of(self, who: str) -> dict[str, str]:
        """Settings of a process that reaches its servers through its own links."""
        clock = self.clocks.environ(who) if self.clocks is not None else {}
        return {
            **clock,
            "DATABASE_URL": _at_port(self.servers.database_url, self.network.links[f"{who}→postgres"].port),
            "REDIS_URL": _at_port(self.servers.redis_url, self.network.links[f"{who}→valkey"].port),
        }

    def child(
        self, name: str, command: str, settings: Mapping[str, str], *arguments: str, code: Path | None = None
    ) -> Child:
        """A process of the service. code: the folder it runs from, None for this checkout."""
        ours = {declared.variable for declared in declared_settings().values()}
        inherited = {key: value for key, value in os.environ.items() if key not in ours}
        # Processes start hundreds of times: none compiles what another has, whatever the caller's Python keeps.
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        inherited["PYTHONPYCACHEPREFIX"] = str(COMPILED if code is None else self.folder / "compiled")
        program = [sys.executable, "-m", "processor", command, *arguments]
        if code is not None:
            program = ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(code), *program]
        return Child(
            name,
            program,
            environ={**inherited, **getattr(self, "settings", {}), **settings},
            log_file=self.folder / f"{name}.log",
        )

    def _client(self) -> WixClient:
        return WixClient(
            base_url=self.control.base_url,
            credentials=OAuthCredentials(
                app_id=self.settings["WIX_APP_ID"],
                app_secret=self.settings["WIX_APP_SECRET"],
                base_url=self.control.base_url,
                timeout_seconds=10,
                on_response=lambda operation, status: None,
            ),
            timeout_seconds=10,
            on_response=lambda operation, status: None,
        )

    def close(self) -> None:
        """End every process and remove every file."""
        self._stop.set()
        for thread in (self._trade, self._watch):
            if thread.is_alive():
                thread.join(20)
        if hasattr(self, "sender"):
            self.sender.stop()
        for child in self.children.values():
            with contextlib.suppress(OSError):
                if child.is_running:
                    os.killpg(child.pid, signal.SIGCONT)
            child.request_stop()
        for child in self.children.values():
            child.stop(5)
        if hasattr(self, "servers"):
            self.signal_servers(signal.SIGCONT)
            self.servers.stop()
            if self.servers.folder != self.servers.asked_folder:
                shutil.rmtree(self.servers.folder, ignore_errors=True)
        if hasattr(self, "wix"):
            self.wix.close()
        if hasattr(self, "control"):
            self.control.close()
        self.network.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- What faults use -----------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Let a fault last."""
        self._stop.wait(seconds)

    def heal(self) -> None:
        """Say that from now on nothing is in the way of recovery."""
        self.began_healing = time.monotonic()

    @contextlib.contextmanager
    def admin(self) -> Iterator[psycopg.Connection[Any]]:
        """A superuser's connection, past the proxies."""
        connection = psycopg.connect(self.admin_url, autocommit=True, connect_timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def books(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection to the service's database, past the proxies."""
        connection = psycopg.connect(self.servers.database_url, autocommit=True, connect_timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    def valkey(self) -> redis.Redis:
        """A client, past the proxies. Close it."""
        return redis.Redis.from_url(self.servers.redis_url, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def kill(self, name: str) -> None:
        """Kill -9 a process of the service with all of its own."""
        self.expected_down.add(name)
        self.children[name].kill()

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """Signal a process of the service with all of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.children[name].pid, number)

    def signal_servers(self, number: signal.Signals) -> None:
        """Signal PostgreSQL with every backend, and Valkey."""
        for server in (self.servers.postgres, self.servers.valkey):
            self.signal_server(server, number)

    def signal_server(self, server: embedded.Server, number: signal.Signals) -> None:
        """Signal a server and every process of its session."""
        if server.pid is None:
            return
        for pid in session(server.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def start_server(self, server: embedded.Server) -> None:
        """Return when a server runs and lets us in: PostgreSQL may be recovering by itself.

        Its postmaster was seen to wait for ever after its start-up process had died in a recovery. So, as an operator
        would, it is killed and started anew when it lets nobody in for so long; `restarted` says when.
        """
        pause, deadline = threading.Event(), time.monotonic() + RECOVER_SECONDS
        stuck = time.monotonic() + STUCK_SECONDS
        while True:
            try:
                server.start()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > stuck:
                self.restarted.append(self.fault)
                server.kill()
                stuck = deadline
            pause.wait(0.05)

    def ensure_up(self) -> None:
        """Start what is down, as a supervisor would, and note what ended although nobody asked it to."""
        for server in (self.servers.postgres, self.servers.valkey):
            self.start_server(server)
        for name, child in self.children.items():
            if not child.is_running:
                if name not in self.expected_down:
                    self.exits.append(Exit(name, self.fault, child.tail(12)))
                child.start()
        self.expected_down.clear()

    def await_sandbox(self) -> None:
        """Return when the pretend Wix answers."""
        wait_until(self.control.is_up, what="the sandbox", seconds=30, children=[self.children["sandbox"]])

    def await_web(self, name: str) -> None:
        """Return when a web server says that it is ready."""
        url = f"http://{LOCALHOST}:{self.web_ports[name]}/readyz"
        wait_until(lambda: is_local_ready(url), what=name, seconds=60, children=[self.children[name]])

    # -- Recovery ------------------------------------------------------------------------------------

    def await_intake(self) -> float:
        """Seconds from healing until every web server answers a new event with 200."""
        mint = self.mint.twin(random.Random(f"{self.seed}/{time.monotonic()}"))
        deadline = self.began_healing + RECOVER_SECONDS
        pause = threading.Event()
        last = 0.0
        for web in WEBS:
            while True:
                entry = self.ledger.open(mint.payment())
                token = sign(entry.told.claims, self.key)
                self.ledger.attempt(entry, b"")
                said = self.sender.post(self.network.links[f"sender→{web}"].port, token)
                self.ledger.answer(entry, said)
                if said == "200":
                    last = time.monotonic()
                    break
                self.ledger.give_up(entry)  # nobody resends it
                if time.monotonic() > deadline:
                    raise NotRecovered(f"{web} answers {said} after {self.fault}\n{self.tails()}")
                pause.wait(0.05)
        return last - self.began_healing

    def send_probe(self) -> Probe | None:
        """A buyer pays at the sandbox; the watcher notes when that is booked and matched. None: it does not answer."""
        try:
            paid = self.control.post(f"links/{self._link()}/pay")["payments"]
        except ProcessorError:  # of the control API, or of the pretend Wix
            return None
        probe = Probe(self.fault, time.monotonic(), [UUID(one["id"]) for one in paid])
        self.probes.append(probe)
        return probe

    def _watching(self) -> None:
        while not self._stop.wait(0.25):
            waiting = [probe for probe in self.probes if probe.matched is None]
            if not waiting:
                continue
            with contextlib.suppress(psycopg.Error), self.books() as connection:
                rows = connection.execute(
                    "SELECT payment_id FROM payments WHERE payment_id = ANY(%s) AND match_state = 'matched'",
                    [[id_ for probe in waiting for id_ in probe.payment_ids]],
                ).fetchall()
                done = {row[0] for row in rows}
                for probe in waiting:
                    if done.issuperset(probe.payment_ids):
                        probe.matched = time.monotonic() - probe.began

    def _link(self) -> UUID:
        if self._paid % PAYS_PER_LINK == 0 or not hasattr(self, "_link_id"):
            currency, price = (("USD", "10.00"), ("KWD", "1.234"), ("JPY", "500"))[
                self._paid // PAYS_PER_LINK % 3
            ]
            item = wire.CustomItem(name="thing", quantity=1, price=price)
            new = wire.NewPaymentLink(
                title="thing",
                currency=currency,
                type="ECOM",
                ecom_payment_link=wire.EcomPaymentLink([wire.LineItem(type="CUSTOM", custom_item=item)]),
            )
            self._link_id = UUID(str(self.wix.create_link(self.instance_id, new).id))
        self._paid += 1
        return self._link_id

    def _trading(self) -> None:
        """Buyers pay at the sandbox, a payment about every second."""
        while not self._stop.wait(1.0):
            # The sandbox may be away, by a fault.
            with contextlib.suppress(Exception):
                self.control.post(f"links/{self._link()}/pay")

    # -- The proof -----------------------------------------------------------------------------------

    def check(self, *, whole: bool = False) -> Findings:
        """Compare ledger and database; what is found is also kept in `findings`."""
        with self.books() as connection:
            found = (
                check_all(connection, self.mint.instances, self.ledger)
                if whole
                else check_fresh(connection, self.mint.instances, self.ledger)
            )
        self.findings.add(found)
        return found

    def drain(self, seconds: float = 200.0) -> None:
        """Tell nothing new and return when nothing waits for its 200."""
        self.sender.pause()
        wait_until(lambda: self.ledger.open_count() == 0, what="the last resends", seconds=seconds)

    def await_truth(self, seconds: float = 120.0) -> None:
        """Return once the books of the sandbox's site equal what happened, to the last payment. Raises NotRecovered."""
        self._stop.set()
        self._trade.join(20)
        self.control.delete("faults")
        database = open_database(
            sqlalchemy_url(self.servers.database_url),
            name="chaos",
            pool_size=1,
            pool_seconds=10,
            statement_seconds=60,
        )
        last: list[str] = []

        def is_equal() -> bool:
            nonlocal last
            last = differences(self.control, database)
            return not last

        try:
            wait_until(is_equal, what="the books", seconds=seconds)
        except ChildFailed as why:
            raise NotRecovered(f"the books differ: {last[:10]} ({len(last)})\n{self.tails()}") from why
        finally:
            database.dispose()

    def evidence(self) -> dict[str, int]:
        """That the faults did strike: lines of PostgreSQL's log, and what the service counted."""
        log = (self.servers.folder / "postgres.log").read_text(errors="replace").splitlines()
        found = {words: sum(words in line for line in log) for words in LOG_WORDS}
        with self.books() as connection:
            for name, sql in COUNTED.items():
                row = connection.execute(sql).fetchone()
                found[name] = int(row[0] or 0) if row else 0
        return found

    def tails(self) -> str:
        """The last lines of every log."""
        return "\n".join(f"--- {name}\n{child.tail(8)}" for name, child in self.children.items())

    def calm(self) -> None:
        """Put everything right that a fault may have left, whatever happened to it."""
        for name, link in self.network.links.items():
            if link.mode is not Mode.PASS:
                self.network.become(name, Mode.PASS)
        if self.disk is not None:
            self.disk.heal()
        for name, child in self.children.items():
            if child.is_running:
                self.send_signal(name, signal.SIGCONT)
        self.signal_servers(signal.SIGCONT)


def install(sender: Sender, mint: Mint, port: int, key: Any) -> None:
    """Tell of the app's installation on every site, and of its removal from all but one.

    Late events after a removal are booked like any other, and Wix, who does not know these sites, is not asked.
    """
    for number, instance_id in enumerate(mint.instances):
        told: list[tuple[str, float]] = [(wire.APP_INSTALLED, 60.0)]
        if number:
            told.append((wire.APP_REMOVED, 30.0))
        for event_type, ago in told:
            said = sender.post(port, sign(mint.life(instance_id, event_type, seconds_ago=ago), key))
            assert said == "200", f"{event_type} was answered {said}"


def session(pid: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    if not Path("/proc").is_dir():
        return [pid]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while below := {one for one, parent in parents.items() if parent in found and one not in found}:
        found |= below
    return sorted(found)


def _at_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    before, _, _ = parts.netloc.rpartition(":")
    return parts._replace(netloc=f"{before}:{port}").geturl()
