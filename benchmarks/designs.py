"""The designs that `benchmarks.intake` measures, as a table: add a line to measure one more."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import lean, naive
from processor.system import LOCALHOST

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Books:
    """Where designs of one kind keep what they took, and how to prove it.

    schema: None for our own migrations. stored: every event kept and the payment booked for it. unasked: how many of
    them no check was asked for; None where that is a job in the queue. Both may name %(since)s, when the point began,
    and %(sites)s. prepare: run on emptied tables, with the sites as its only parameter. emptied: tables to empty
    before a point, all when none are named.
    """

    database: str
    schema: str | None
    stored: str
    unasked: str | None = None
    prepare: str | None = None
    emptied: tuple[str, ...] = ()
    queue: str | None = None


OURS = Books(
    database="bench_ours",
    schema=None,
    stored="""
        SELECT e.event_id, p.payment_id FROM webhook_events e
        LEFT JOIN payments p ON p.instance_id = e.instance_id AND p.payment_id = e.entity_id""",
    unasked="""
        SELECT count(*) FROM webhook_events e WHERE NOT EXISTS (
            SELECT FROM check_requests c
            WHERE c.instance_id = e.instance_id AND c.payment_link_id = e.payment_link_id)""",
    prepare="INSERT INTO app_instances (instance_id, installed_at) SELECT unnest(%s::uuid[]), now()",
)
LEAN = Books(
    database="bench_lean",
    schema=lean.SCHEMA,
    stored="SELECT e.event_id, p.payment_id FROM lean_events e LEFT JOIN lean_payments p USING (payment_id)",
    unasked="""
        SELECT count(*) FROM lean_payments p WHERE NOT EXISTS (
            SELECT FROM lean_outbox o
            WHERE o.instance_id = p.instance_id AND o.payment_link_id = p.payment_link_id)""",
)
NAIVE = Books(
    database="bench_naive",
    schema=naive.SCHEMA,
    stored="SELECT e.event_id, p.payment_id FROM naive_events e LEFT JOIN naive_payments p USING (payment_id)",
    queue="rq:queue:naive",
)


@dataclass(frozen=True, slots=True)
class Design:
    """One application under one server.

    family: designs of one family stand for one idea; what is compared with it is compared with the fastest of them.
    app: module and object. books: None for what stores nothing.
    """

    name: str
    family: str
    app: str
    books: Books | None
    is_default: bool = True
    server: str = "granian"
    workers: int = 2
    threads: int | None = None  # of the server; None: as `processor serve` has it
    environ: Mapping[str, str] = field(default_factory=dict)

    def command(self, port: int, backpressure: int | None = None) -> list[str]:
        """How it is served on `port`. backpressure: of Granian for each worker, None for what `processor serve` has.

        Whatever else Granian is told comes from the code of `processor serve` (`benchmarks.serve`).
        """
        binaries = Path(sys.executable).parent
        if self.server == "gunicorn":
            return [
                *(
                    str(binaries / "gunicorn"),
                    "--bind",
                    f"{LOCALHOST}:{port}",
                    "--workers",
                    str(self.workers),
                ),
                *("--worker-class", "sync", "--backlog", "2048", "--log-level", "error"),
                *("--chdir", str(ROOT), self.app),
            ]
        return [
            *(sys.executable, "-m", "benchmarks.serve", self.app, "--port", str(port)),
            *("--workers", str(self.workers)),
            *(("--threads", str(self.threads)) if self.threads is not None else ()),
            *(("--backpressure", str(backpressure)) if backpressure is not None else ()),
        ]


DESIGNS = (
    # These hold a thread for each request until it is answered.
    Design("naive_granian", "naive", "benchmarks.naive:app", NAIVE, threads=32),
    Design(
        *("naive_gunicorn", "naive", "benchmarks.naive:app", NAIVE),
        server="gunicorn",
        workers=5,
        threads=1,
        environ={"NAIVE_POOL": "1"},
    ),
    Design("lean", "lean", "benchmarks.lean:app", LEAN, threads=16),
    Design("ours_flask", "ours_flask", "benchmarks.ours_flask:app", OURS, threads=32),
    Design("ours", "ours", "wsgi:app", OURS),
    Design("null", "null", "benchmarks.null:app", None),
    # Named with --designs only.
    Design("lean_32", "lean", "benchmarks.lean:app", LEAN, is_default=False, threads=32),  # for slow disks
    Design("lean_64", "lean", "benchmarks.lean:app", LEAN, is_default=False, threads=64),
    Design("ours_32", "ours_32", "wsgi:app", OURS, is_default=False, threads=32),
    Design("null_32", "null_32", "benchmarks.null:app", None, is_default=False, threads=32),
    Design("ours_quiet", "ours_quiet", "wsgi:app", OURS, is_default=False, environ={"LOG_LEVEL": "WARNING"}),
    Design("ours_lane", "ours_lane", "wsgi:app", OURS, is_default=False, environ={"INTAKE_LANES": "1"}),
)
