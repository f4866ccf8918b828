"""`processor archive`: months leave whole, proven, and come back."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from processor.store import evidence, payments
from tests.commands.running import Run, told
from tests.shop import Shop

TOKENS = "SELECT count(*) AS count FROM webhook_event_tokens"


@pytest.fixture
def old(shop: Shop) -> Shop:
    """A shop told of three payments some months ago."""
    link_id = shop.link()
    for _ in range(3):
        shop.pay(link_id)
    shop.deliver()
    month = an_old_month(shop)
    with shop.services.database.begin() as connection:
        for table in ("webhook_events", "webhook_event_tokens"):
            connection.execute(
                text(f"UPDATE {table} SET received_at = :at"), {"at": month + timedelta(days=14, hours=3)}
            )
        evidence.ensure_months(connection, month)
    return shop


def an_old_month(shop: Shop) -> datetime:
    return evidence.month_of(shop.services.now() - timedelta(days=100))


def partition(shop: Shop) -> str:
    return evidence.partition_of(an_old_month(shop))


def test_a_month_is_written_proven_and_detached(run: Run, old: Shop, tmp_path: Path) -> None:
    events = old.one(TOKENS).count
    before = evidence.month_of(old.services.now())
    made = told(run("archive", "export", "--before", f"{before:%Y-%m}", "--to", str(tmp_path), "--json"))

    [file] = [Path(one["file"]) for one in made if one["event_count"]]
    assert [one["event_count"] for one in made if one["event_count"]] == [events]
    with gzip.open(file, "rt") as lines:
        held = [json.loads(line) for line in lines]
    assert len(held) == events
    assert {line["token"].count(".") for line in held} == {2}
    assert file.stat().st_mode & 0o077 == 0
    assert old.one(TOKENS).count == 0
    assert old.one(f"SELECT count(*) AS count FROM {file.name.removesuffix('.jsonl.gz')}").count == events
    assert old.one("SELECT count(*) AS count FROM webhook_events").count == events
    listed = told(run("archive", "list", "--json"))
    assert [one["event_count"] for one in listed if one["event_count"]] == [events]


def test_what_comes_again_of_an_archived_month_is_a_duplicate(run: Run, old: Shop, tmp_path: Path) -> None:
    archive(run, old, tmp_path)

    assert {one.outcome.value for one in old.deliver()} == {"duplicate"}


def test_a_token_somebody_changed_keeps_its_month(run: Run, old: Shop, tmp_path: Path) -> None:
    with old.services.database.begin() as connection:
        connection.execute(
            text(
                "UPDATE webhook_event_tokens SET token = 'x.y.z' WHERE event_id ="
                " (SELECT event_id FROM webhook_event_tokens LIMIT 1)"
            )
        )
    tokens = old.one(TOKENS).count

    refused = archive(run, old, tmp_path, code=2)

    assert "somebody changed it" in refused
    assert old.one(TOKENS).count == tokens
    assert list(tmp_path.iterdir()) == []


def test_an_erasure_reaches_a_detached_month_and_the_list_names_the_file(
    run: Run, old: Shop, tmp_path: Path
) -> None:
    archive(run, old, tmp_path)
    payment = old.rows("SELECT instance_id, payment_id FROM payments")[0]
    with old.services.database.begin() as connection:
        payments.erase(connection, payment.instance_id, payment.payment_id, old.services.now())

    kept = old.rows(
        "SELECT e.event_id FROM webhook_events e JOIN"
        f" {partition(old)} t USING (event_id)"
        " WHERE e.entity_id = :id",
        id=payment.payment_id,
    )
    assert kept == []
    assert sum(one["erased"] for one in told(run("archive", "list", "--json"))) == 1


def test_a_restored_month_can_be_replayed_but_brings_no_erased_token_back(
    run: Run, old: Shop, tmp_path: Path
) -> None:
    events = old.one(TOKENS).count
    archive(run, old, tmp_path, "--drop")
    assert told(run("replay", "--all", "--dry-run", "--json"))["counts"] == {"archived": events}
    event = old.one("SELECT event_id FROM webhook_events WHERE kind = 'payment' LIMIT 1").event_id
    refused = run("events", "show", "--token", event, code=2).stderr
    assert "archived with its month" in refused
    assert "processor archive restore" in refused
    payment = old.rows("SELECT instance_id, payment_id FROM payments")[0]
    with old.services.database.begin() as connection:
        payments.erase(connection, payment.instance_id, payment.payment_id, old.services.now())

    file = str(tmp_path / f"{partition(old)}.jsonl.gz")
    restored = run("archive", "restore", file).stdout
    again = run("archive", "restore", file).stdout

    assert f"{events - 1} of {events} bodies were put back" in restored
    assert f"0 of {events} bodies were put back" in again
    assert old.one(TOKENS).count == events - 1


def test_what_is_no_archive_or_no_month_is_refused(run: Run, old: Shop, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gz"
    wrong.write_bytes(b"not gzip")

    assert "no whole archive" in run("archive", "restore", str(wrong), code=2).stderr
    assert (
        "write 2026-08"
        in run("archive", "export", "--before", "August", "--to", str(tmp_path), code=2).stderr
    )
    assert (
        "name an earlier time"
        in run("archive", "export", "--before", "2999-01", "--to", str(tmp_path), code=2).stderr
    )
    (tmp_path / f"{partition(old)}.jsonl.gz").touch()
    assert "only copy of its month" in archive(run, old, tmp_path, code=2)


def archive(run: Run, shop: Shop, folder: Path, *more: str, code: int = 0) -> str:
    before = evidence.month_of(shop.services.now())
    done = run("archive", "export", "--before", f"{before:%Y-%m}", "--to", str(folder), *more, code=code)
    return str(done.stdout + done.stderr)
