"""`processor alerts`, over real channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from processor import wiring
from processor.config import Settings
from processor.domain.alert import AlertKind, Channel
from processor.jobs import alerting
from processor.store import alerts
from tests.commands.running import Run, told
from tests.receivers import WHSEC, Hook, Post, a_hook, a_post
from tests.shop import Shop


@pytest.fixture
def hook() -> Iterator[Hook]:
    with a_hook() as running:
        yield running


@pytest.fixture
def post() -> Iterator[Post]:
    with a_post() as running:
        yield running


@pytest.fixture
def with_channels(
    shop: Shop, hook: Hook, post: Post, monkeypatch: pytest.MonkeyPatch, run: Run
) -> Iterator[wiring.Services]:
    """The commands', with both channels configured."""
    environ = {
        "DATABASE_URL": str(shop.services.settings.database_url),
        "ALERT_WEBHOOK_URL": hook.url,
        "ALERT_WEBHOOK_SECRET": WHSEC,
        "ALERT_SMTP_URL": f"smtp://127.0.0.1:{post.port}",
        "ALERT_MAIL_FROM": "processor@example.com",
        "ALERT_MAIL_TO": "finance@example.com",
    }
    settings = Settings.read(environ)

    def build(role: str, environ: object = None) -> wiring.Services:
        return wiring.build(settings, role=role, now=shop.services.now)

    monkeypatch.setattr(wiring, "from_environ", build)
    services = build("worker")
    yield services
    services.close()


def raise_one(shop: Shop, kind: AlertKind = AlertKind.WEBHOOKS_SILENT, **document: Any) -> None:
    with shop.services.database.begin() as connection:
        alerts.tell(
            connection,
            kind,
            instance_id=shop.instance_id,
            subject=str(shop.instance_id),
            change=str(uuid4()),
            document=document,
            now=shop.services.now(),
        )


def test_a_test_goes_through_every_channel(run: Run, with_channels: Any, hook: Hook, post: Post) -> None:
    said = run("alerts", "test").stdout

    assert said == "mail: delivered\nwebhook: delivered\n"
    assert [one["type"] for one in hook.messages()] == ["alerts.test"]
    assert [mail["Subject"] for _, mail in post.got] == ["Test of alerts"]
    assert {one["kind"] for one in told(run("alerts", "deliveries", "--json"))} == {"test"}


def test_a_channel_that_does_not_take_the_test_is_said_and_not_tried_again(
    run: Run, with_channels: Any, hook: Hook, post: Post, shop: Shop
) -> None:
    hook.answers = [(500, {})]

    result = run("alerts", "test", "--json", code=1)

    assert told(result) == [
        {"channel": "mail", "is_delivered": True, "why": None},
        {"channel": "webhook", "is_delivered": False, "why": "the receiver answered 500"},
    ]
    assert "hidden" not in result.output
    with shop.services.database.begin() as connection:
        assert alerts.retry(connection, shop.services.now()) == []


def test_without_a_channel_there_is_nothing_to_test(run: Run) -> None:
    assert "no channel is configured" in run("alerts", "test", code=2).stderr


def test_alerts_are_listed_with_how_far_they_are(
    run: Run, with_channels: wiring.Services, shop: Shop, hook: Hook
) -> None:
    assert "no such alert" in run("alerts", "list").stdout
    raise_one(shop)
    assert "waiting for the clock" in run("alerts", "list").stdout

    raise_one(shop, AlertKind.BACKFILL_FINISHED)
    with capture_logs():
        alerting.prepare(with_channels, with_channels.now())
        alerting.deliver(with_channels, Channel.WEBHOOK)

    people = run("alerts", "list").stdout
    assert "mail waiting, webhook delivered" in people
    assert "log and digest" in people
    [one] = told(run("alerts", "list", "--state", "delivered", "--json"))
    assert (one["kind"], one["deliveries"]) == (
        "webhooks_silent",
        {"mail": "waiting", "webhook": "delivered"},
    )
    assert told(run("alerts", "list", "--state", "given_up", "--json")) == []
    assert len(told(run("alerts", "list", "--kind", "backfill_finished", "--json"))) == 1


def test_an_alert_of_a_discrepancy_is_listed_in_words(run: Run, shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    shop.sandbox.faults.add({"kind": "payment_deleted", "paymentId": str(payment_id)})
    shop.check()
    shop.pass_time()
    shop.check()

    assert "missing_at_wix" in (said := run("alerts", "list").stdout)
    assert "10.00 USD at risk" in said


def test_what_was_given_up_is_sent_again_when_asked_for(
    run: Run, with_channels: wiring.Services, shop: Shop, hook: Hook
) -> None:
    hook.answers = [(410, {})]
    raise_one(shop)
    with capture_logs():
        alerting.prepare(with_channels, with_channels.now())
        alerting.deliver(with_channels, Channel.WEBHOOK)
    [given_up] = told(run("alerts", "deliveries", "--state", "given_up", "--json"))
    assert "410" in given_up["last_error"]

    assert "say which" in run("alerts", "retry", code=2).stderr
    assert "unknown" in run("alerts", "retry", uuid4(), code=2).stderr
    assert "asked for 1 message\n" in run("alerts", "retry", given_up["delivery_id"]).stdout
    alerting.deliver(with_channels, Channel.WEBHOOK)

    with shop.services.database.begin() as connection:
        statuses = connection.execute(
            text("SELECT status FROM alert_deliveries WHERE channel = 'webhook'")
        ).scalars()
        assert list(statuses) == ["delivered"]
    assert hook.ids[0] == hook.ids[1] == given_up["delivery_id"]
