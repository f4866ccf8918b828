"""`processor backfills`, over a sandbox."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from processor import jobs
from processor.jobs import sweeping
from processor.sandbox.seed import Volume, load
from tests.commands.running import Run, told
from tests.shop import Shop


def test_a_span_is_read_here_and_now(run: Run, shop: Shop) -> None:
    shop.pay(shop.link())
    shop.pass_time(timedelta(days=5))

    result = run("backfills", "start", "--since", "2026-01-01", "--here", "--as", "ada")

    assert "100%" in result.stdout
    assert "ada" in result.stdout
    assert "100% read, 1 payments" in result.stderr
    shop.check()
    assert len(shop.rows("SELECT FROM payments")) == 1


def test_a_backfill_is_listed_with_how_far_it_is_and_cancelled(
    run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "PART_PAGES", 1)
    assert sum(load(shop.sandbox, Volume(300, 3, 1, 1), 1, [str(shop.instance_id)])) == 300
    assert run("backfills", "list").stdout == "nothing was backfilled\n"
    started = told(run("backfills", "start", "--since", "2026-10-01", "--as", "ada", "--json"))
    assert (started["status"], started["share_done"], started["finishes_at"]) == ("waiting", 0.0, None)
    jobs.run_backfill(shop.services, shop.instance_id)
    shop.pass_time(timedelta(minutes=1))

    [line] = told(run("backfills", "list", "--json"))
    table = run("backfills", "list").stdout
    shown = run("backfills", "show", started["backfill_id"]).stdout

    assert (line["status"], line["reason"], line["actor"]) == ("running", "requested", "ada")
    assert 0 < line["share_done"] < 1
    assert line["finishes_at"] > line["started_at"]
    assert line["backfill_id"] in table
    assert "through at about" in shown
    run("backfills", "cancel", started["backfill_id"])
    assert "cancelled" in run("backfills", "list").stdout
    again = run("backfills", "cancel", started["backfill_id"], code=2)
    assert "is cancelled already" in again.stderr


def test_what_cannot_be_is_refused_with_what_to_do(run: Run, shop: Shop) -> None:
    assert "--since" in run("backfills", "start", code=2).stderr
    assert (
        "must lie before"
        in run("backfills", "start", "--since", "2026-02-01", "--until", "2026-01-01", code=2).stderr
    )
    stranger = run("backfills", "start", "--since", "2026-01-01", "--instance", uuid4(), code=2)
    assert "the app instance is unknown" in stranger.stderr
    assert "`processor backfills list`" in run("backfills", "show", uuid4(), code=2).stderr
    assert (
        "automation"
        in run("backfills", "start", "--since", "2026-01-01", "--as", "automation", code=2).stderr
    )
    assert shop.rows("SELECT FROM backfills") == []


def test_without_a_worker_the_wait_ends_and_the_backfill_stays(run: Run, shop: Shop) -> None:
    result = run("backfills", "start", "--since", "2026-01-01", "--wait", "--timeout", 1, code=3)

    assert "is a worker running?" in result.stderr
    assert shop.one("SELECT due_at FROM backfills").due_at is not None
