"""Two versions of the code over one database, with a migration in between, under load."""

from __future__ import annotations

import random
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from processor.config import database_url as sqlalchemy_url
from processor.outgoing import is_local_ready
from processor.processes import Child, free_port, wait_until
from processor.store import migrations
from tests.chaos.events import Mint
from tests.chaos.ledger import Ledger
from tests.chaos.sender import Sender
from tests.chaos.verify import Findings, check_all

if TYPE_CHECKING:
    from tests.chaos.world import World

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = "migrations/versions"
LOCALHOST = "127.0.0.1"
RATE = 40.0
LOOKED_BACK = 50  # commits
ANSWERED_EACH = 60  # events answered 200 in each phase, so that every mixture of versions has stored some


@dataclass(frozen=True, slots=True)
class Before:
    """The code before the newest migration. revision: the migration it knows as the newest."""

    commit: str
    revision: str


def code_before() -> Before | str:
    """The newest commit without the newest migration, or why there is none to be had."""
    newest = max((ROOT / VERSIONS).glob("[0-9]*.py")).name
    try:
        adding = _git("log", "--diff-filter=A", "--format=%H", "-1", "--", f"{VERSIONS}/{newest}")
        if adding:
            for commit in _git("rev-list", f"--max-count={LOOKED_BACK}", f"{adding}^@").split():
                numbers = [
                    Path(name).name.partition("_")[0]
                    for name in _git("ls-tree", "--name-only", commit, f"{VERSIONS}/").split()
                    if Path(name).name[:1].isdigit()
                ]
                # Where two migrations had one number, the newest had another until then: that code never ran.
                if len(set(numbers)) == len(numbers):
                    return Before(commit, max(numbers))
    except (OSError, subprocess.CalledProcessError):
        return "there is no git history here"
    return f"the history here does not reach back before {newest}"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def unpack(commit: str, folder: Path) -> Path:
    """The code of a commit, in a folder of its own."""
    code = folder / f"code-{commit[:12]}"
    if not code.exists():
        code.mkdir()
        packed = folder / "code.tar"
        _git("archive", "--output", str(packed), commit)
        with tarfile.open(packed) as tar:
            tar.extractall(code, filter="data")
    return code


def deploy(world: World, before: Before) -> Findings:
    """Old code, then the migration beneath it, then old and new side by side, back to old once, and on to new."""
    from tests.chaos.world import install

    old = unpack(before.commit, world.folder)
    name = f"deploy_{time.monotonic_ns()}"
    with world.admin() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = world.servers.postgres.url_of(name)
    migrations.upgrade(sqlalchemy_url(url), before.revision)
    ports = [free_port(), free_port()]
    ledger, mint = Ledger(), Mint(random.Random(f"{world.seed}/{name}"))
    sender = Sender(
        ledger,
        mint,
        random.Random(f"{world.seed}/{name}/steps"),
        ports=ports,
        rate=RATE,
        key=world.key,
    )
    webs: dict[int, Child] = {}

    def run(number: int, code: Path | None) -> None:
        """Replace a web server by one of that code, as a rolling deploy does."""
        if number in webs:
            webs[number].stop()
        settings = {
            **world.environ_of("web"),
            **world.web_environ(ports[number]),
            "DATABASE_URL": url,
        }
        webs[number] = world.child(f"deploy-{number}", "serve", settings, code=code)
        webs[number].start()
        ready = f"http://{LOCALHOST}:{ports[number]}/readyz"
        wait_until(lambda: is_local_ready(ready), what="a web server", seconds=60, children=[webs[number]])

    def await_events() -> None:
        wanted = ledger.answered_count() + ANSWERED_EACH
        wait_until(lambda: ledger.answered_count() >= wanted, what="events in every phase", seconds=60)

    try:
        run(0, old)
        run(1, old)
        install(sender, mint, ports[0], world.key)
        sender.start()
        await_events()
        migrate = world.child("migrate", "migrate", {"DATABASE_URL": url})
        migrate.start()
        wait_until(lambda: not migrate.is_running, what="the migration", seconds=60)
        with psycopg.connect(url) as connection:
            at = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            assert at == (migrations.head(),), migrate.tail()
        await_events()  # old code over new tables
        run(0, None)
        await_events()  # both
        run(0, old)  # rolled back
        await_events()
        run(0, None)
        run(1, None)
        await_events()
        sender.pause()
        wait_until(lambda: ledger.open_count() == 0, what="the last resends", seconds=150)
        with psycopg.connect(url, autocommit=True) as connection:
            found = check_all(connection, mint.instances, ledger)
            if found:
                found.wrong += _odd_events(connection)
            return found
    finally:
        sender.stop()
        for web in webs.values():
            web.stop(5)
        with world.admin() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _odd_events(connection: psycopg.Connection[Any]) -> list[str]:
    """What may explain a finding, before the database goes: events kept unread for a fault of ours."""
    rows = connection.execute(
        "SELECT event_id, event_type, entity_id, status, reason, reason_detail, received_at FROM webhook_events"
        " WHERE reason = 'not_storable' ORDER BY received_at LIMIT 20"
    ).fetchall()
    return [f"kept unread: {', '.join(map(str, row))}" for row in rows]
