"""What the check of one link costs as it grows: seconds, and the memory of the worker's process.

    .venv/bin/python -m benchmarks.large_link [PAYMENTS …]

Each size has a sandbox and a database of its own, and is checked twice by a process that does nothing else: the first
check books every payment, the second finds them all the same. Prints a table; seconds are the machine's own, so
compare the columns within one run.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from benchmarks import machine
from benchmarks.pretend import PROCESSOR, a_loaded_sandbox, settings_for
from processor import embedded, jobs, wiring
from processor.config import Settings
from processor.domain.reconciliation import Outcome
from processor.store import checks, instances

SIZES = (1_000, 10_000, 100_000)
SEED = 1


def main() -> None:
    """Measure every size."""
    sizes = [int(argument) for argument in sys.argv[1:]] or SIZES
    folder = Path(tempfile.mkdtemp(prefix="processor-bench-"))
    folder.chmod(0o755)
    print(
        f"{'payments':>10} {'booking s':>10} {'us/payment':>11} {'again s':>9} {'us/payment':>11} {'RSS MB':>8}"
    )
    try:
        with machine.start_servers(folder / "servers") as servers:
            for size in sizes:
                one = measure(folder / str(size), servers, size)
                first, again = one.seconds
                print(
                    f"{size:>10,} {first:>10.1f} {first / size * 1e6:>11.0f} {again:>9.1f}"
                    f" {again / size * 1e6:>11.0f} {one.rss_mb:>8.0f}",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """Two checks of one link. seconds: of the booking one and of the one after. rss_mb: the process' peak."""

    seconds: list[float]
    rss_mb: float


def measure(folder: Path, servers: embedded.Servers, size: int) -> Measured:
    """Two checks of a link of `size` payments, by a process of their own."""
    folder.mkdir()
    with a_loaded_sandbox(folder, payments=size, links=1, seed=SEED) as control:
        name = f"bench_{size}"
        subprocess.run(
            [*PROCESSOR, "migrate"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"DATABASE_URL": new_database(servers, name)},
        )
        environ = settings_for(control) | {
            "DATABASE_URL": servers.postgres.url_of(name),
            "REDIS_URL": servers.redis_url,
            "LOG_LEVEL": "ERROR",
        }
        instance_id = control.get("instances")["instances"][0]["instanceId"]
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.large_link", "--worker", instance_id],
            check=True,
            stdout=subprocess.PIPE,
            env=os.environ | environ,
        )
        return Measured(**json.loads(told.stdout.splitlines()[-1]))


def new_database(servers: embedded.Servers, name: str) -> str:
    """An empty database; its URL."""
    import psycopg

    with psycopg.connect(servers.postgres.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return servers.postgres.url_of(name)


def work(instance_id: UUID) -> None:
    """The worker's process: two checks of the only link, told on the last line."""
    services = wiring.build(Settings.read(os.environ), role="worker")
    with services.database.begin() as connection:
        instances.confirm(connection, instance_id, services.now())
    [page] = services.wix.query_links(instance_id, filter={}, pages_max=1)
    link_id = UUID(page[0].id)
    seconds: list[float] = []
    for outcome in (Outcome.RECOVERED, Outcome.MATCHED):
        with services.database.begin() as connection:
            checks.request(connection, instance_id, [link_id], services.now())
        began = time.perf_counter()
        jobs.run_check(services, instance_id)
        seconds.append(time.perf_counter() - began)
        with services.database.begin() as connection:
            run = connection.exec_driver_sql(
                "SELECT * FROM reconciliation_runs ORDER BY started_at DESC LIMIT 1"
            ).one()
        if run.status != "succeeded" or not getattr(run, outcome):
            raise SystemExit(f"the check went wrong: {run}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "rss_mb": peak / (2**20 if sys.platform == "darwin" else 2**10)}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(UUID(sys.argv[2]))
    else:
        main()
