"""The service behind PgBouncer in transaction mode, where no two statements need meet the same backend."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from processor.config import database_url as sqlalchemy_url
from processor.processes import Child, free_port, wait_until
from processor.store.database import open_database
from processor.store.inbox import Inbox, Outcome
from tests.builders import NOW, payment_claims
from tests.shop import a_shop
from tests.store.helpers import delivery, install, one

FOUND = shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
IS_REQUIRED = os.environ.get("POOLER_TESTS") == "required"
pytestmark = pytest.mark.skipif(FOUND is None and not IS_REQUIRED, reason="there is no pgbouncer on PATH")


@pytest.fixture
def pooled_url(database_url: str) -> Iterator[str]:
    """The database by way of a pooler with three connections to it."""
    assert FOUND is not None, "POOLER_TESTS=required, and no pgbouncer on PATH"
    server = conninfo_to_dict(database_url)
    folder = Path(tempfile.mkdtemp(prefix="processor-pooler-"))
    port = free_port()
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{server['dbname']} = host={server['host']} port={server['port']}"
        f" user={server['user']} password={server['password']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n"
        "ignore_startup_parameters = options\n"
    )
    if os.geteuid() == 0:  # it refuses to be root
        subprocess.run(["chown", "-R", "nobody", str(folder)], check=True)
        command = [FOUND, "-u", "nobody", str(config)]
    else:
        command = [FOUND, str(config)]
    running = Child("pgbouncer", command, environ=os.environ, log_file=folder / "log")
    running.start()
    url = f"postgresql://pooled@127.0.0.1:{port}/{server['dbname']}?sslmode=disable"

    def is_open() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_until(is_open, what="the pooler", seconds=20, children=[running])
        yield url
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_deliveries_are_stored_once_through_it(pooled_url: str) -> None:
    database = open_database(
        sqlalchemy_url(pooled_url), name="test", pool_size=2, pool_seconds=10, statement_seconds=30
    )
    install(database)
    told = [delivery(payment_claims({"id": str(uuid4())}, id=str(uuid4()))) for _ in range(150)]
    with (
        closing(Inbox(database, lambda: NOW, seconds=20, lanes=4, is_preparing=False)) as inbox,
        ThreadPoolExecutor(24) as pool,
    ):
        outcomes = Counter(stored.outcome for stored in pool.map(inbox.store, [*told, *told[::3]]))

    assert outcomes == {Outcome.STORED: 150, Outcome.DUPLICATE: 50}
    assert one(
        database, "SELECT count(*), sum(delivery_count) AS told FROM webhook_events WHERE kind = 'payment'"
    ) == (
        150,
        200,
    )
    database.dispose()


def test_links_are_checked_and_swept_through_it(pooled_url: str, redis_url: str) -> None:
    with a_shop(pooled_url, redis_url) as shop:
        shop.deliver()
        link_id = shop.link()
        [told, untold] = shop.pay(link_id) + shop.pay(link_id)
        shop.deliver(told)
        shop.pass_time()
        shop.check()
        shop.tick()
        shop.sweep()

        states = {row.payment_id: row.match_state for row in shop.rows("SELECT * FROM payments")}
        assert states == {told: "matched", untold: "matched"}
        assert shop.open() == []
