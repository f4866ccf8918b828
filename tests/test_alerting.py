"""Alerts on their way, over real channels: once, together when there are many, and until they are taken."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from processor import clock, jobs, wiring
from processor.channels import webhook
from processor.config import Settings
from processor.domain.alert import AlertKind, Channel
from processor.domain.discrepancy import Difference, DiscrepancyType, Severity
from processor.jobs import alerting
from processor.store import alerts, discrepancies, runs
from processor.wiring import Services
from tests.builders import INSTANCE, LINK, PAYMENT
from tests.receivers import WHSEC, Hook, Post, a_hook, a_post
from tests.shop import Shop, a_shop
from tests.store.helpers import confirm

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DIFFERENCE = Difference(
    type=DiscrepancyType.AMOUNT_DIFFERS,
    payment_link_id=LINK,
    payment_id=PAYMENT,
    sides={"booked": "1", "wix": "2"},
    amount_at_risk=Decimal("1.50"),
    currency="USD",
)
MILD = replace(DIFFERENCE, type=DiscrepancyType.COUNT_DIFFERS, severity=Severity.INFORMATIONAL)


@dataclass
class Desk:
    """Our service without its processes, and whoever is told of alerts. Time passes when told to."""

    services: Services
    hook: Hook
    post: Post
    now: list[datetime] = field(default_factory=lambda: [NOW])

    def pass_time(self, **gap: float) -> None:
        self.now[0] += timedelta(**gap)

    def see(self, *differences: Difference) -> None:
        """A check of the link sees these and no other."""
        with self.services.database.begin() as connection:
            run_id: UUID = runs.start(connection, INSTANCE, "check", self.now[0])
            discrepancies.note(connection, INSTANCE, differences, run_id=run_id, now=self.now[0])
            discrepancies.resolve_absent(connection, INSTANCE, [LINK], run_id=run_id, now=self.now[0])

    def tell(self, kind: AlertKind, change: str = "1", **document: Any) -> None:
        with self.services.database.begin() as connection:
            alerts.tell(
                connection,
                kind,
                instance_id=INSTANCE,
                subject=str(INSTANCE),
                change=change,
                document=document,
                now=self.now[0],
            )

    def prepare(self) -> None:
        alerting.prepare(self.services, self.services.now())

    def send(self) -> None:
        """As clock and worker would, until nothing is due."""
        self.prepare()
        for channel in Channel:
            alerting.deliver(self.services, channel)

    def rows(self, sql: str, **values: Any) -> list[Any]:
        with self.services.database.begin() as connection:
            return list(connection.execute(text(sql), values).all())

    def types(self) -> list[str]:
        return [one["type"] for one in self.hook.messages()]

    def subjects(self) -> list[str]:
        return [mail["Subject"].strip() for _, mail in self.post.got]


@pytest.fixture
def build(database_url: str, redis_url: str) -> Iterator[Any]:
    with ExitStack() as stack:

        def desk(*, by: str = "webhook mail", **settings: str) -> Desk:
            hook, post = stack.enter_context(a_hook()), stack.enter_context(a_post())
            now = [NOW]
            environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "ALERT_DIGEST_SECONDS": "0"}
            if "webhook" in by:
                environ |= {"ALERT_WEBHOOK_URL": hook.url, "ALERT_WEBHOOK_SECRET": WHSEC}
            if "mail" in by:
                environ |= {
                    "ALERT_SMTP_URL": f"smtp://127.0.0.1:{post.port}",
                    "ALERT_MAIL_FROM": "processor@example.com",
                    "ALERT_MAIL_TO": "finance@example.com",
                }
            services = wiring.build(Settings.read(environ | settings), role="worker", now=lambda: now[0])
            stack.callback(services.close)
            confirm(services.database)
            return Desk(services, hook, post, now)

        yield desk


@pytest.fixture
def signed_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The independent verifier lives in the real time: sign in it."""
    real = webhook.Webhook.send
    monkeypatch.setattr(
        webhook.Webhook,
        "send",
        lambda self, delivery_id, document, now: real(self, delivery_id, document, datetime.now(UTC)),
    )


pytestmark = pytest.mark.usefixtures("signed_now")


# -- Told once -------------------------------------------------------------------------------------


def test_a_discrepancy_reaches_every_channel_once(build: Any) -> None:
    desk = build()
    desk.see(DIFFERENCE)
    desk.send()
    desk.pass_time(minutes=1)
    desk.see(DIFFERENCE)
    desk.send()

    [message] = desk.hook.messages()
    assert message["type"] == "discrepancy.opened"
    assert message["timestamp"] == "2026-11-24T12:00:00.000Z"
    assert message["data"]["details"]["amount_at_risk"] == "1.50"
    assert message["data"]["advice"].startswith("Compare both with the buyer's receipt")
    assert desk.subjects() == ["Discrepancy opened: amount_differs, 1.50 USD at risk"]
    assert {row.status for row in desk.rows("SELECT status FROM alert_deliveries")} == {"delivered"}


def test_what_nobody_must_act_on_waits_for_the_digest(build: Any) -> None:
    desk = build(by="webhook")
    desk.see(DIFFERENCE, MILD)
    desk.send()
    desk.see()
    desk.send()

    assert desk.types() == ["discrepancy.opened"]


def test_everything_is_told_at_once_where_that_is_asked_for(build: Any) -> None:
    desk = build(by="webhook", ALERT_SEVERITY="informational")
    desk.see(MILD)
    desk.send()
    desk.see()
    desk.send()
    desk.see(MILD)
    desk.send()

    assert desk.types() == ["discrepancy.opened", "discrepancy.resolved", "discrepancy.reopened"]


def test_what_ends_an_outage_is_told_at_once(build: Any) -> None:
    desk = build(by="webhook")
    desk.tell(AlertKind.WEBHOOKS_SILENT, silent_since="2026-11-24T10:00:00Z")
    desk.send()
    desk.tell(AlertKind.WEBHOOKS_BACK)
    desk.tell(AlertKind.BACKFILL_FINISHED)
    desk.send()

    assert desk.types() == ["webhooks.silent", "webhooks.back"]


def test_a_discrepancy_that_flaps_is_told_of_once_a_day(build: Any) -> None:
    desk = build(by="webhook")
    for _ in range(5):
        desk.see(DIFFERENCE)
        desk.send()
        desk.pass_time(minutes=10)
        desk.see()
        desk.send()
        desk.pass_time(minutes=10)
    assert desk.types() == ["discrepancy.opened"]

    desk.pass_time(days=1)
    desk.see(DIFFERENCE)
    desk.send()

    assert desk.types() == ["discrepancy.opened", "discrepancy.reopened"]


def test_one_that_grows_graver_is_told_of_though_it_was_open(build: Any) -> None:
    desk = build(by="webhook")
    desk.see(MILD)
    desk.send()
    desk.see(replace(MILD, severity=Severity.ERROR))
    desk.send()

    assert desk.types() == ["discrepancy.worsened"]


def test_what_is_over_before_it_is_told_is_left_to_the_digest(build: Any) -> None:
    desk = build()
    desk.see(DIFFERENCE)
    desk.see()
    desk.send()
    assert desk.types() == []

    desk.tell(AlertKind.WEBHOOKS_SILENT)
    desk.prepare()
    desk.pass_time(seconds=20)
    desk.send()
    desk.see(DIFFERENCE)
    desk.send()  # the mail waits for the end of the gap
    desk.pass_time(minutes=1)
    desk.see()
    desk.pass_time(minutes=10)
    desk.send()

    assert desk.subjects() == ["Webhooks silent"]


def test_one_that_is_open_again_before_it_was_told_is_told(build: Any) -> None:
    desk = build(by="mail")
    desk.tell(AlertKind.WEBHOOKS_SILENT)
    desk.prepare()
    desk.pass_time(seconds=16)
    desk.send()
    desk.see(DIFFERENCE)
    desk.prepare()
    # No clock ticks between the two: it is closed and open again at once.
    desk.pass_time(seconds=1)
    desk.see()
    desk.pass_time(seconds=1)
    desk.see(DIFFERENCE)
    desk.prepare()
    desk.pass_time(minutes=5)
    desk.send()

    assert desk.subjects() == ["Webhooks silent", "Discrepancy opened: amount_differs, 1.50 USD at risk"]


def test_without_channels_the_log_is_told(build: Any) -> None:
    desk = build(by="log")
    desk.see(DIFFERENCE, MILD)
    with capture_logs() as logs:
        desk.send()
        desk.send()

    lines = [line for line in logs if line["event"] == "alert"]
    assert sorted((line["kind"], line["severity"], line["log_level"]) for line in lines) == [
        ("discrepancy_opened", "error", "warning"),
        ("discrepancy_opened", "informational", "info"),
    ]
    assert {line["instance_id"] for line in lines} == {str(INSTANCE)}
    assert desk.rows("SELECT FROM alert_deliveries") == []


def test_the_log_is_left_out_where_that_is_asked_for(build: Any) -> None:
    desk = build(by="webhook", ALERT_LOG="0")
    desk.see(DIFFERENCE)
    with capture_logs() as logs:
        desk.send()

    assert [line["event"] for line in logs] == []
    assert desk.types() == ["discrepancy.opened"]


# -- Many ------------------------------------------------------------------------------------------


def many(number: int) -> list[Difference]:
    return [replace(DIFFERENCE, payment_id=UUID(int=n)) for n in range(1, number + 1)]


def test_ten_thousand_discrepancies_are_one_mail_and_one_webhook(build: Any) -> None:
    desk = build(ALERT_LOG="0")
    desk.see(*many(10_000))
    desk.prepare()
    desk.pass_time(seconds=20)
    desk.send()

    [message] = desk.hook.messages()
    assert message["type"] == "alerts.group"
    assert message["data"]["number"] == 10_000
    [counted] = message["data"]["counts"]
    assert (counted["number"], counted["type"], counted["currency"]) == (10_000, "amount_differs", "USD")
    assert Decimal(counted["amount_at_risk"]) == Decimal(15_000)
    assert len(message["data"]["first"]) == 10
    assert desk.subjects() == ["10000 alerts"]
    assert len(desk.post.got[0][1].get_content()) < 5_000
    [kept] = desk.rows(
        "SELECT count(*) AS alerts, count(DISTINCT delivery_id) AS deliveries FROM alert_routes"
        " WHERE delivery_id IS NOT NULL"
    )
    assert tuple(kept) == (20_000, 2)


def test_one_mail_at_most_leaves_within_the_gap_and_the_rest_goes_together(build: Any) -> None:
    desk = build()
    desk.see(*many(1))
    desk.prepare()
    desk.pass_time(seconds=20)
    desk.send()
    for number in range(2, 5):
        desk.see(*many(number))
        desk.pass_time(seconds=30)
        desk.send()

    assert len(desk.subjects()) == 1
    assert desk.types() == ["discrepancy.opened"] * 4, "programs are told one by one while there are few"
    desk.pass_time(seconds=300)
    desk.send()
    assert desk.subjects()[1:] == ["3 alerts"]


def test_twenty_webhooks_at_most_leave_within_the_gap(build: Any) -> None:
    desk = build(by="webhook")
    desk.see(*many(15))
    desk.send()
    desk.see(*many(25))
    desk.send()
    assert desk.types() == ["discrepancy.opened"] * 15 + ["alerts.group"]

    desk.see(*many(60))
    desk.send()

    assert desk.types()[16:] == ["alerts.group"]
    assert sum(one["data"].get("number", 1) for one in desk.hook.messages()) == 60


# -- Until it is taken -----------------------------------------------------------------------------


def test_a_receiver_that_is_dead_for_hours_gets_everything_when_it_is_back(build: Any) -> None:
    desk = build(by="webhook")
    desk.hook.answers = [(500, {})] * 4
    for number in range(1, 5):
        desk.see(*many(number))
        desk.send()
        desk.pass_time(hours=2)
    assert {row.status for row in desk.rows("SELECT status FROM alert_deliveries")} == {"waiting"}
    desk.send()

    ids = [one["data"]["alert_id"] for one in desk.hook.messages()[4:]]
    assert len(set(ids)) == len(ids) == 4
    assert {row.status for row in desk.rows("SELECT status FROM alert_deliveries")} == {"delivered"}
    first = desk.hook.ids[0]
    assert desk.hook.ids.count(first) > 1, "a message keeps its id"


def test_while_a_receiver_fails_it_is_asked_ever_more_seldom(build: Any) -> None:
    desk = build(by="webhook")
    desk.hook.answers = [(500, {})] * 100
    desk.see(*many(10))
    for _ in range(120):
        desk.send()
        desk.pass_time(seconds=30)

    assert 4 <= len(desk.hook.got) <= 8


def test_a_receiver_says_how_long_it_wants_to_be_left_alone(build: Any) -> None:
    desk = build(by="webhook")
    desk.hook.answers = [(429, {"retry-after": "1800"})]
    desk.see(DIFFERENCE)
    desk.send()
    desk.pass_time(seconds=1_700)
    desk.send()
    assert len(desk.hook.got) == 1

    desk.pass_time(seconds=200)
    desk.send()

    assert desk.rows("SELECT status, attempts FROM alert_deliveries") == [("delivered", 2)]


def test_what_one_message_is_refused_for_does_not_hold_up_the_others(build: Any) -> None:
    desk = build(by="webhook")
    desk.see(*many(3))
    desk.hook.answers = [(400, {})]
    desk.send()

    assert [row.status for row in desk.rows("SELECT status FROM alert_deliveries ORDER BY status")] == [
        "delivered",
        "delivered",
        "waiting",
    ]


def test_what_is_not_taken_for_a_day_is_given_up_said_and_sent_when_asked_for(build: Any) -> None:
    desk = build(by="webhook")
    desk.hook.answers = [(500, {})] * 100
    desk.see(DIFFERENCE)
    with capture_logs() as logs:
        for _ in range(30):
            desk.send()
            desk.pass_time(hours=1)

    assert desk.rows("SELECT status, last_error FROM alert_deliveries") == [
        ("given_up", "the receiver answered 500")
    ]
    [said] = [line for line in logs if line["event"] == "alert_given_up"]
    assert (said["log_level"], said["why"]) == ("error", "the receiver answered 500")
    assert "hidden" not in str(logs)
    with desk.services.database.begin() as connection:
        [state] = alerts.channel_states(connection, desk.services.now())
        assert (state.waiting, state.given_up) == (0, 1)
        assert len(alerts.retry(connection, desk.services.now())) == 1
    desk.hook.answers = []
    desk.send()
    assert desk.rows("SELECT status FROM alert_deliveries") == [("delivered",)]


def test_a_worker_that_was_away_for_days_sends_what_waits_and_what_it_had_tried(build: Any) -> None:
    desk = build(by="webhook")
    desk.hook.answers = [(413, {})]
    desk.see(DIFFERENCE)
    desk.send()
    desk.pass_time(seconds=1)
    desk.see(DIFFERENCE, replace(DIFFERENCE, type=DiscrepancyType.CURRENCY_DIFFERS))
    desk.prepare()
    desk.pass_time(days=3)
    desk.send()

    assert desk.rows("SELECT status, attempts FROM alert_deliveries ORDER BY made_at") == [
        ("delivered", 2),
        ("delivered", 1),
    ]


def test_the_day_until_a_message_is_given_up_begins_with_its_first_attempt(build: Any) -> None:
    desk = build(by="webhook")
    desk.hook.answers = [(503, {})]
    desk.see(DIFFERENCE)
    desk.prepare()
    desk.pass_time(days=3)
    desk.send()
    assert desk.rows("SELECT status FROM alert_deliveries") == [("waiting",)]
    desk.pass_time(minutes=1)
    desk.send()

    assert desk.rows("SELECT status FROM alert_deliveries") == [("delivered",)]


def test_a_message_asked_for_again_while_it_is_sent_keeps_no_worker_busy(build: Any) -> None:
    desk = build(by="webhook")
    desk.see(DIFFERENCE)
    desk.prepare()
    with desk.services.database.begin() as connection:
        alerts.claim(connection, Channel.WEBHOOK, NOW, timedelta(minutes=2))
        alerts.retry(connection, NOW)

        assert not alerts.has_due(connection, Channel.WEBHOOK, NOW)


def test_a_receiver_that_is_gone_is_not_asked_again(build: Any) -> None:
    desk = build(by="webhook")
    desk.hook.answers = [(410, {})]
    desk.see(DIFFERENCE)
    desk.send()
    desk.pass_time(hours=1)
    desk.send()

    assert len(desk.hook.got) == 1
    [row] = desk.rows("SELECT status, last_error FROM alert_deliveries")
    assert row.status == "given_up"
    assert "410" in row.last_error


def test_a_dead_receiver_holds_up_no_mail(build: Any) -> None:
    desk = build()
    desk.hook.answers = [(500, {})] * 10
    desk.see(DIFFERENCE)
    desk.prepare()
    desk.pass_time(seconds=20)
    desk.send()

    assert len(desk.subjects()) == 1


def test_two_workers_at_once_send_each_message_once(build: Any) -> None:
    desk = build(by="webhook")
    desk.see(*many(12))
    desk.prepare()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: alerting.deliver(desk.services, Channel.WEBHOOK), range(2)))

    assert len(desk.hook.ids) == len(set(desk.hook.ids)) == 12


def test_two_clocks_at_once_make_each_message_once(build: Any) -> None:
    desk = build(by="webhook")
    desk.see(*many(12))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: desk.prepare(), range(4)))

    assert desk.rows("SELECT count(*) FROM alert_deliveries") == [(12,)]


def test_after_a_crash_the_same_message_comes_again_under_the_same_id(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = build(by="webhook")
    desk.see(DIFFERENCE)
    desk.prepare()
    with monkeypatch.context() as patched:

        def die(*_: Any) -> None:
            raise SystemExit

        patched.setattr(alerts, "delivered", die)
        with pytest.raises(SystemExit):
            alerting.deliver(desk.services, Channel.WEBHOOK)
    desk.send()
    assert len(desk.hook.got) == 1, "its lease has not run out"

    desk.pass_time(minutes=5)
    desk.send()

    first, second = desk.hook.ids
    assert first == second
    assert desk.hook.got[0][1] == desk.hook.got[1][1]
    assert desk.rows("SELECT status FROM alert_deliveries") == [("delivered",)]


def test_a_message_that_kills_its_worker_lets_others_go_first_and_is_given_up(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = build(by="webhook")
    desk.see(DIFFERENCE)
    desk.prepare()
    send = webhook.Webhook.send
    poison = desk.rows("SELECT delivery_id FROM alert_deliveries")[0].delivery_id

    def die(self: Any, delivery_id: UUID, document: Any, now: datetime) -> None:
        if delivery_id == poison:
            raise SystemExit
        send(self, delivery_id, document, now)

    monkeypatch.setattr(webhook.Webhook, "send", die)
    with pytest.raises(SystemExit):
        desk.send()
    desk.tell(AlertKind.WEBHOOKS_SILENT)
    desk.send()
    assert desk.types() == ["webhooks.silent"]

    desk.pass_time(days=3)
    desk.send()

    assert desk.rows("SELECT status FROM alert_deliveries WHERE kind = 'alert' ORDER BY 1") == [
        ("delivered",),
        ("given_up",),
    ]


# -- A clock that was ahead -------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [{"hours": 5}, {"days": 365}])
def test_a_clock_that_was_ahead_holds_up_no_message(build: Any, ahead: dict[str, float]) -> None:
    desk = build(ALERT_DIGEST_SECONDS="86400")
    desk.pass_time(**ahead)
    desk.tell(AlertKind.WEBHOOKS_SILENT, "1")
    desk.prepare()
    desk.pass_time(seconds=16)
    desk.send()
    assert (len(desk.subjects()), len(desk.types())) == (1, 1)
    desk.tell(AlertKind.WEBHOOKS_SILENT, "2")
    desk.prepare()
    desk.now[0] = NOW
    desk.tell(AlertKind.WEBHOOKS_SILENT, "3")
    desk.send()
    desk.pass_time(seconds=16)
    desk.send()
    desk.pass_time(minutes=5)
    desk.send()

    # The two go in one mail, or in one each.
    assert {
        row.status for row in desk.rows("SELECT status FROM alert_deliveries WHERE channel = 'mail'")
    } == {"delivered"}
    assert desk.rows("SELECT FROM alert_routes WHERE delivery_id IS NULL") == []
    assert len(desk.subjects()) > 1


def test_what_a_clock_that_was_ahead_made_is_sent(build: Any) -> None:
    desk = build(by="webhook")
    desk.pass_time(days=365)
    desk.tell(AlertKind.WEBHOOKS_SILENT)
    desk.prepare()
    desk.now[0] = NOW
    desk.send()

    assert desk.types() == ["webhooks.silent"]


def test_after_a_clock_that_was_ahead_digests_go_on(build: Any) -> None:
    desk = build(by="webhook", ALERT_DIGEST_SECONDS="86400")
    desk.pass_time(days=365)
    desk.see(MILD)
    desk.send()
    desk.now[0] = NOW
    desk.send()
    desk.pass_time(days=1)
    desk.send()

    (digest,) = desk.hook.messages()
    assert digest["type"] == "alerts.digest"
    assert [(one["what"], one["number"]) for one in digest["data"]["changes"]] == [("opened", 1)]


# -- Digests ---------------------------------------------------------------------------------------


def test_a_digest_says_what_is_open_and_counts_what_flapped_once(build: Any) -> None:
    desk = build(by="webhook", ALERT_DIGEST_SECONDS="86400", ALERT_SEVERITY="error")
    desk.prepare()
    desk.see(MILD)
    desk.see(MILD, replace(DIFFERENCE, payment_id=UUID(int=7)))
    for _ in range(3):
        desk.pass_time(minutes=1)
        desk.see(MILD, DIFFERENCE)
        desk.pass_time(minutes=1)
        desk.see(MILD)
    desk.tell(AlertKind.BACKFILL_FINISHED)
    desk.send()
    desk.hook.got.clear()
    desk.pass_time(hours=13)
    desk.send()
    desk.send()

    [message] = desk.hook.messages()
    assert message["type"] == "alerts.digest"
    data = message["data"]
    assert (data["from"], data["to"]) == ("2026-11-24T00:00:00.000Z", "2026-11-25T00:00:00.000Z")
    [still] = data["open"]
    assert (still["type"], still["severity"], still["number"]) == ("count_differs", "informational", 1)
    assert still["since"] == "2026-11-24T12:00:00.000Z"
    assert {(one["what"], one["type"], one["number"], one["amount_at_risk"]) for one in data["changes"]} == {
        ("opened", "count_differs", 1, "1.50"),
        ("opened_and_closed", "amount_differs", 2, "3.000"),
    }
    assert [(one["what"], one["number"]) for one in data["others"]] == [("backfill_finished", 1)]


def test_there_is_no_digest_when_nothing_is_open_and_nothing_happened(build: Any) -> None:
    desk = build(by="webhook", ALERT_DIGEST_SECONDS="3600")
    desk.send()
    desk.pass_time(hours=2)
    desk.send()
    assert desk.types() == []

    desk.see(MILD)
    desk.pass_time(hours=1)
    desk.send()
    desk.pass_time(hours=1)
    desk.send()
    desk.see()
    desk.pass_time(hours=1)
    desk.send()
    desk.pass_time(hours=1)
    desk.send()
    desk.pass_time(hours=1)
    desk.send()

    told = [(one["data"]["open"] != [], one["data"]["changes"] != []) for one in desk.hook.messages()]
    # What came in an hour is told when it is given to the channels; while it is open every digest says so.
    assert told[-1] == (False, True)
    assert all(is_open or has_changed for is_open, has_changed in told)
    before = len(desk.types())
    desk.pass_time(hours=5)
    desk.send()
    assert len(desk.types()) == before


def test_no_change_falls_between_two_digests_and_none_is_in_both(build: Any) -> None:
    desk = build(by="webhook", ALERT_DIGEST_SECONDS="3600", ALERT_SEVERITY="error")
    desk.prepare()
    for number in range(1, 30):
        desk.see(*(replace(MILD, payment_id=one.payment_id) for one in many(number)))
        if number % 3 == 0:
            desk.send()
        desk.pass_time(minutes=17)
    desk.pass_time(hours=1)
    desk.send()
    desk.pass_time(hours=1)
    desk.send()

    opened = sum(
        line["number"]
        for one in desk.hook.messages()
        for line in one["data"]["changes"]
        if line["what"] == "opened"
    )
    assert opened == 29


# -- Wix that cannot be asked ----------------------------------------------------------------------


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url) as running:
        running.deliver()
        yield running


def kinds(shop: Shop) -> list[str]:
    return [row.kind for row in shop.rows("SELECT kind FROM alerts ORDER BY at, kind")]


def fail(shop: Shop) -> None:
    """A sweep could not ask Wix."""
    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE sweeps SET failures = failures + 1"))
        run_id = runs.start(connection, shop.instance_id, "sweep", shop.services.now())
        runs.finish(connection, run_id, runs.Counts(), {}, shop.services.now(), failed="WixUnavailable: away")


def test_that_wix_cannot_be_asked_is_told_once_for_an_outage(shop: Shop) -> None:
    shop.sweep()
    shop.sandbox.world.remove(str(shop.instance_id))  # tokens are refused; nobody tells us
    for _ in range(8):
        shop.pass_time(timedelta(minutes=16))
        shop.sweep()
        shop.tick()

    assert kinds(shop) == ["wix_unreachable"]
    [alert] = shop.rows("SELECT * FROM alerts")
    assert alert.instance_id == shop.instance_id
    assert "WixUnauthorized" in alert.document["why"]
    assert str(shop.services.settings.app_secret) not in str(alert.document)


def test_while_nothing_of_ours_runs_wix_is_not_away(shop: Shop) -> None:
    shop.sweep()
    shop.pass_time(timedelta(minutes=16))
    fail(shop)
    shop.pass_time(timedelta(hours=5))
    shop.tick()

    assert kinds(shop) == []


def test_an_outage_shorter_than_that_is_not_told_and_its_end_is_told_once(shop: Shop) -> None:
    def fail_for(minutes: int) -> None:
        fail(shop)
        shop.pass_time(timedelta(minutes=minutes))
        shop.tick()

    shop.sweep()
    fail_for(50)
    assert kinds(shop) == []
    fail_for(20)
    fail_for(20)
    assert kinds(shop) == ["wix_unreachable"]

    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE sweeps SET due_at = :now"), {"now": shop.services.now()})
    shop.sweep()
    shop.tick()
    shop.tick()

    assert kinds(shop) == ["wix_unreachable", "wix_reachable"]
    assert shop.one("SELECT ended_at FROM wix_outages").ended_at is not None
    fail_for(70)
    fail_for(0)
    assert kinds(shop) == ["wix_unreachable", "wix_reachable", "wix_unreachable"]


def test_after_a_new_installation_an_outage_is_told_anew(shop: Shop) -> None:
    def write(column: str) -> None:
        shop.rows(f"UPDATE app_instances SET {column} = :now RETURNING 1", now=shop.services.now())
        shop.tick()
        shop.pass_time(timedelta(minutes=1))

    shop.sweep()
    fail(shop)
    shop.pass_time(timedelta(minutes=70))
    fail(shop)
    shop.tick()
    write("removed_at")
    write("installed_at")
    assert kinds(shop) == ["wix_unreachable"]
    fail(shop)
    shop.pass_time(timedelta(minutes=70))
    fail(shop)
    shop.tick()

    assert kinds(shop) == ["wix_unreachable", "wix_unreachable"]


# -- Timing, and the processes ---------------------------------------------------------------------


def test_what_timing_explains_is_never_told(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.sandbox.faults.add({"kind": "payment_deleted", "paymentId": str(payment_id)})
    shop.deliver()
    shop.check()
    shop.tick()
    assert kinds(shop) == []

    shop.pass_time()
    shop.check()
    shop.tick()

    assert kinds(shop) == ["discrepancy_opened"]


def test_clock_and_worker_bring_an_alert_on_its_way(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = build(by="webhook")
    monkeypatch.setattr(wiring, "from_environ", lambda _: desk.services)
    desk.see(DIFFERENCE)

    assert clock.tick(desk.services).alerts == 1
    assert clock.tick(desk.services).alerts == 0, "a job is on its way"
    desk.pass_time(minutes=1)
    assert clock.tick(desk.services).alerts == 1, "a lost job is enqueued again"
    jobs.deliver_alerts("webhook")

    assert desk.types() == ["discrepancy.opened"]
    assert clock.tick(desk.services).alerts == 0
    with desk.services.database.begin() as connection:
        counted = connection.execute(text("SELECT name, label, value FROM counters ORDER BY 1, 2")).all()
    assert [tuple(row) for row in counted] == [
        ("alert_deliveries", "webhook delivered", 1),
        ("alerts", "discrepancy_opened", 1),
        ("jobs", "deliver_alerts succeeded", 1),
    ]


def test_rules_of_another_release_are_told_of_once(shop: Shop) -> None:
    with shop.services.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO rule_sets (document, created_by, created_at)"
                " VALUES ('{\"of_tomorrow\": 1}', 'ada', now())"
            )
        )
        connection.execute(
            text(
                "INSERT INTO rule_set_approvals (version, created_by, approved_by, approved_at)"
                " SELECT version, 'ada', 'grace', now() FROM rule_sets"
            )
        )
    shop.pay(shop.link())
    shop.deliver()
    with capture_logs():
        shop.check()
        shop.pass_time()
        shop.check()

    [alert] = shop.rows("SELECT kind, severity, instance_id, document FROM alerts")
    assert (alert.kind, alert.severity, alert.instance_id) == ("rules_unreadable", "error", None)
    assert alert.document["version"] == 1
