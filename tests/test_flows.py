"""Creating a link once, whatever is lost on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from processor import flows, jobs
from processor.config import declared_settings
from processor.errors import (
    CreationConflict,
    CreationUnclear,
    WixRefused,
    WixUnauthorized,
    WixUnavailable,
)
from processor.flows import How, create_link, is_made_of
from processor.processes import wait_until
from processor.store import creations
from processor.wix import wire
from processor.wix.client import UnreadableItem
from tests.shop import SETTLING, Shop, a_shop


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url, WIX_TIMEOUT_SECONDS="1") as running:
        running.deliver()
        yield running


def new(title: str = "Tea", price: str = "4.5", **more: Any) -> wire.NewPaymentLink:
    item = wire.LineItem("CUSTOM", wire.CustomItem(name="Tea", quantity=1, price=price))
    return wire.NewPaymentLink(
        title=title, currency="EUR", type="ECOM", ecom_payment_link=wire.EcomPaymentLink([item]), **more
    )


def links_at_wix(shop: Shop) -> int:
    return shop.sandbox.documents.count("link")


def lose_the_next_answer(shop: Shop) -> None:
    """Wix makes the link and its answer never arrives."""
    shop.sandbox.faults.add(
        {
            "kind": "hang",
            "seconds": 2,
            "count": 1,
            "path": wire.PATH_LINKS,
            "instanceId": str(shop.instance_id),
        }
    )


def lose(shop: Shop, reference: str = "r1") -> None:
    lose_the_next_answer(shop)
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference=reference)


@pytest.mark.fact("R10")
def test_a_link_is_created_and_known_at_once(shop: Shop) -> None:
    made = create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert made.how is How.MADE
    row = shop.one("SELECT payment_link_id, title, status FROM payment_links")
    assert (row.payment_link_id, row.title, row.status) == (made.link_id, "Tea", "ACTIVE")


def test_the_same_reference_gives_the_same_link(shop: Shop) -> None:
    made = create_link(shop.services, shop.instance_id, new(), reference="r1")

    again = create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert (again.link_id, again.how) == (made.link_id, How.KNOWN)
    assert again.link.title == "Tea"
    assert links_at_wix(shop) == 1


def test_another_reference_gives_another_link_of_the_same_content(shop: Shop) -> None:
    one = create_link(shop.services, shop.instance_id, new(), reference="r1")
    other = create_link(shop.services, shop.instance_id, new(), reference="r2")

    assert one.link_id != other.link_id


def test_a_reference_stands_for_one_request_alone(shop: Shop) -> None:
    create_link(shop.services, shop.instance_id, new(), reference="r1")

    with pytest.raises(CreationConflict, match="r1"):
        create_link(shop.services, shop.instance_id, new(price="5"), reference="r1")

    assert links_at_wix(shop) == 1


@pytest.mark.fact("X14")
def test_a_lost_answer_is_made_good_by_finding_the_link(shop: Shop) -> None:
    lose(shop)
    assert links_at_wix(shop) == 1

    found = create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert found.how is How.FOUND
    assert links_at_wix(shop) == 1
    assert shop.one("SELECT status FROM link_creations").status == "created"


def test_a_truncated_answer_too(shop: Shop) -> None:
    shop.sandbox.faults.add({"kind": "truncated", "count": 1, "path": wire.PATH_LINKS})
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND
    assert links_at_wix(shop) == 1


def test_two_lost_answers_of_the_same_content_find_two_links(shop: Shop) -> None:
    lose(shop, "r1")
    lose(shop, "r2")

    one = create_link(shop.services, shop.instance_id, new(), reference="r1")
    other = create_link(shop.services, shop.instance_id, new(), reference="r2")

    assert one.link_id != other.link_id
    assert links_at_wix(shop) == 2


def test_while_wix_does_not_show_it_nothing_is_created_anew(shop: Shop) -> None:
    lose(shop)
    shop.sandbox.faults.add({"kind": "read_lag", "seconds": 3_600})

    with pytest.raises(CreationUnclear) as why:
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert 0 < why.value.retry_after_seconds <= SETTLING.total_seconds()
    assert links_at_wix(shop) == 1
    shop.sandbox.faults.remove(None)
    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND


def test_what_wix_never_made_is_made_after_the_settling_time(shop: Shop) -> None:
    shop.sandbox.faults.add({"kind": "status", "status": 503, "count": 1, "path": wire.PATH_LINKS})
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference="r1")
    with pytest.raises(CreationUnclear):
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    shop.pass_time(SETTLING + timedelta(seconds=1))

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.MADE
    assert links_at_wix(shop) == 1


@pytest.mark.parametrize("status", [400, 403, 428])
def test_after_a_refusal_the_same_reference_may_ask_again(shop: Shop, status: int) -> None:
    shop.services.wix.check_credentials(shop.instance_id)
    shop.sandbox.faults.add({"kind": "status", "status": status, "count": 1})
    with pytest.raises((WixRefused, WixUnauthorized)):
        create_link(shop.services, shop.instance_id, new(), reference="r1")
    assert shop.one("SELECT status FROM link_creations").status == "refused"

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.MADE
    assert links_at_wix(shop) == 1


def refuse(shop: Shop, asked: wire.NewPaymentLink, reference: str = "r1") -> None:
    """Wix refuses, and so has made nothing."""
    shop.services.wix.check_credentials(shop.instance_id)
    shop.sandbox.faults.add({"kind": "status", "status": 428, "count": 1, "path": f"={wire.PATH_LINKS}"})
    with pytest.raises(WixRefused):
        create_link(shop.services, shop.instance_id, asked, reference=reference)


def test_after_a_refusal_the_reference_is_free_for_another_request(shop: Shop) -> None:
    refuse(shop, new(title="Taa"))

    made = create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert (made.how, made.link.title) == (How.MADE, "Tea")
    again = create_link(shop.services, shop.instance_id, new(), reference="r1")
    assert (again.how, again.link_id) == (How.KNOWN, made.link_id)
    with pytest.raises(CreationConflict, match="was used for another link"):
        create_link(shop.services, shop.instance_id, new(title="Taa"), reference="r1")
    assert links_at_wix(shop) == 1


def test_the_lost_answer_of_a_request_after_a_refusal_is_looked_for_by_its_own_content(shop: Shop) -> None:
    refuse(shop, new(title="Taa"))
    lose(shop)

    with pytest.raises(CreationConflict, match="is in use for another link"):
        create_link(shop.services, shop.instance_id, new(title="Taa"), reference="r1")
    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND
    assert links_at_wix(shop) == 1


def test_a_clock_set_back_keeps_no_reference_from_being_asked_for_after_a_refusal(shop: Shop) -> None:
    refuse(shop, new())
    with shop.services.database.begin() as connection:
        later = "first_asked_at + interval '1 hour'"
        connection.execute(
            text(f"UPDATE link_creations SET first_asked_at = {later}, last_asked_at = {later}")
        )

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.MADE


def test_of_many_requests_after_a_refusal_one_has_the_reference(shop: Shop) -> None:
    refuse(shop, new())

    def ask(number: int) -> str:
        try:
            asked = new(title=f"Tea {number % 3}")
            return create_link(shop.services, shop.instance_id, asked, reference="r1").how.value
        except CreationConflict:
            return "conflict"
        except CreationUnclear:
            return "unclear"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(ask, range(24)))

    assert outcomes.count("made") == 1
    assert set(outcomes) <= {"made", "known", "unclear", "conflict"}
    assert links_at_wix(shop) == 1


@pytest.mark.parametrize("is_first_to_finish", [True, False])
def test_who_was_held_up_gets_no_reference_that_a_refusal_freed_for_another_request(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, is_first_to_finish: bool
) -> None:
    """The link of one request must never be handed to who asks for the other."""
    ask = shop.services.wix.create_link
    is_asking, may_ask = threading.Event(), threading.Event()
    told: list[str] = []

    def ask_late(instance_id: UUID, asked: wire.NewPaymentLink) -> Any:
        if not is_asking.is_set():
            is_asking.set()
            may_ask.wait(30)
        elif asked.title == "Other" and is_first_to_finish:
            may_ask.set()
            held_up.join()
        return ask(instance_id, asked)

    def create_late() -> None:
        try:
            create_link(shop.services, shop.instance_id, new(), reference="r1")
        except CreationConflict as why:
            told.append(str(why))

    monkeypatch.setattr(shop.services.wix, "create_link", ask_late)
    held_up = threading.Thread(target=create_late)
    held_up.start()
    assert is_asking.wait(30)
    shop.pass_time(timedelta(hours=2))  # beyond the lease: another process takes over, and is refused
    refuse(shop, new())

    made = create_link(shop.services, shop.instance_id, new(title="Other"), reference="r1")
    may_ask.set()
    held_up.join()

    assert made.how is How.MADE
    assert len(told) == 1
    assert "for another request by now" in told[0]
    assert str(made.link_id) not in told[0]
    assert shop.one("SELECT payment_link_id FROM link_creations").payment_link_id == made.link_id
    assert create_link(shop.services, shop.instance_id, new(title="Other"), reference="r1").link == made.link


def test_being_throttled_is_no_reason_to_wait_for_the_settling_time(shop: Shop) -> None:
    shop.sandbox.faults.add({"kind": "status", "status": 429, "count": 1, "path": wire.PATH_LINKS})
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.MADE


def test_of_many_at_once_one_creates(shop: Shop) -> None:
    def ask(_: int) -> str:
        try:
            return create_link(shop.services, shop.instance_id, new(), reference="r1").how.value
        except CreationUnclear:
            return "unclear"

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(ask, range(24)))

    assert told.count("made") == 1
    assert set(told) <= {"made", "known", "unclear"}
    assert links_at_wix(shop) == 1


def test_an_interrupted_creation_can_be_asked_for_again_at_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(creations, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND
    assert links_at_wix(shop) == 1


@pytest.fixture
def dying(shop: Shop) -> Iterator[subprocess.Popen[bytes]]:
    """A process that asks for the link r1, whose answer does not come."""
    shop.sandbox.faults.add({"kind": "hang", "seconds": 60, "count": 1, "path": f"={wire.PATH_LINKS}"})
    settings = {
        declared.variable: value
        for name, declared in declared_settings().items()
        if (value := getattr(shop.services.settings, name)) is not None
        and declared.variable in ("DATABASE_URL", "REDIS_URL", "WIX_API_URL", "WIX_APP_ID", "WIX_APP_SECRET")
    }
    link = json.dumps({"paymentLink": msgspec.to_builtins(new())}).encode()
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "processor", "links", "create", "--file", "-", "--reference", "r1"),
            *("--instance", str(shop.instance_id)),
        ],
        env={**os.environ, **settings, "WIX_TIMEOUT_SECONDS": "30"},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None
    child.stdin.write(link)
    child.stdin.close()
    yield child
    child.kill()
    child.wait()


def test_a_process_that_was_killed_while_asking_is_taken_over(
    shop: Shop, dying: subprocess.Popen[bytes]
) -> None:
    wait_until(lambda: links_at_wix(shop) == 1, what="the link", seconds=30)
    dying.kill()
    dying.wait()

    with pytest.raises(CreationUnclear, match="another process") as held:
        create_link(shop.services, shop.instance_id, new(), reference="r1")
    shop.pass_time(timedelta(seconds=held.value.retry_after_seconds + 1))

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND
    assert links_at_wix(shop) == 1


def test_a_clock_set_back_holds_nobody_up(shop: Shop) -> None:
    lose(shop)
    with shop.services.database.begin() as connection:
        connection.execute(
            text(
                "UPDATE link_creations SET status = 'asking', lease_id = gen_random_uuid(),"
                " lease_until = now() + interval '30 days'"
            )
        )

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND


def test_whoever_was_held_up_too_long_is_told_of_two_links(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key for repeating a request exists at Wix, so this can happen, and then it must be heard of."""
    ask = shop.services.wix.create_link
    second: list[flows.Created] = []

    def ask_late(*arguments: Any) -> Any:
        monkeypatch.undo()
        shop.pass_time(timedelta(hours=2))
        second.append(create_link(shop.services, shop.instance_id, new(), reference="r1"))
        return ask(*arguments)

    monkeypatch.setattr(shop.services.wix, "create_link", ask_late)

    with pytest.raises(CreationConflict, match="two links were made") as why:
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    [counts] = second
    assert str(counts.link_id) in str(why.value)
    assert shop.one("SELECT payment_link_id FROM link_creations").payment_link_id == counts.link_id


def test_a_link_is_not_taken_from_a_process_that_is_about_to_make_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_nothing = {"kind": "status", "status": 503, "count": 1, "path": f"={wire.PATH_LINKS}"}
    shop.sandbox.faults.add(lose_nothing)
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference="r1")
    ask = shop.services.wix.create_link

    def ask_and_let_the_other_look(*arguments: Any) -> Any:
        made = ask(*arguments)
        with pytest.raises(CreationUnclear, match="under another reference"):
            create_link(shop.services, shop.instance_id, new(), reference="r1")
        return made

    monkeypatch.setattr(shop.services.wix, "create_link", ask_and_let_the_other_look)

    assert create_link(shop.services, shop.instance_id, new(), reference="r2").how is How.MADE
    monkeypatch.undo()
    shop.pass_time(SETTLING + timedelta(seconds=1))
    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.MADE
    assert links_at_wix(shop) == 2


def test_a_look_that_outlasts_its_lease_makes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(shop)
    shop.pass_time(SETTLING + timedelta(seconds=1))
    query = shop.services.wix.query_links

    def query_slowly(*arguments: Any, **more: Any) -> Any:
        for page in query(*arguments, **more):
            monkeypatch.undo()
            shop.pass_time(timedelta(hours=1))
            assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND
            yield page

    monkeypatch.setattr(shop.services.wix, "query_links", query_slowly)

    with pytest.raises(CreationUnclear, match="took this creation over"):
        create_link(shop.services, shop.instance_id, new(), reference="r1")
    assert links_at_wix(shop) == 1


def spoil(shop: Shop) -> None:
    """From now on Wix describes links in a way we cannot read."""
    with shop.sandbox.documents.transaction():
        for document in shop.sandbox.documents.all("link"):
            document["entity"]["paymentsLimit"] = "many"
            shop.sandbox.documents.put("link", document["id"], document)


def test_an_answer_that_cannot_be_read_is_a_link_all_the_same(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shop.services.wix,
        "create_link",
        lambda *_: UnreadableItem("6a206d71-52f5-4012-b3dd-8a283fea052e", "odd"),
    )

    made = create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert str(made.link_id) == "6a206d71-52f5-4012-b3dd-8a283fea052e"
    assert shop.one("SELECT status FROM link_creations").status == "created"


def test_a_link_that_cannot_be_read_is_not_made_again_and_again(shop: Shop) -> None:
    lose(shop)
    spoil(shop)
    shop.pass_time(SETTLING + timedelta(seconds=1))

    with pytest.raises(CreationUnclear, match="in a way we cannot read"):
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert links_at_wix(shop) == 1


def test_an_instance_that_no_event_told_of_is_known_from_its_first_link_on(shop: Shop) -> None:
    instance_id = UUID(shop.sandbox.world.install({})["instanceId"])  # its AppInstalled is not delivered

    made = create_link(shop.services, instance_id, new(), reference="r1")

    assert made.how is How.MADE
    jobs.run_check(shop.services, instance_id)
    known = shop.one("SELECT status FROM app_instances WHERE instance_id = :id", id=instance_id)
    assert known.status == "installed"


def test_a_link_without_an_id_of_ours_is_not_taken_for_none(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(shop)
    shop.pass_time(SETTLING + timedelta(seconds=1))
    monkeypatch.setattr(
        shop.services.wix, "query_links", lambda *_, **__: iter([[wire.PaymentLink(id="seven", title="Tea")]])
    )

    with pytest.raises(CreationUnclear, match="'seven'"):
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert links_at_wix(shop) == 1


def test_one_content_however_it_is_written_is_one(shop: Shop) -> None:
    """Or a rival would not be known for one: its link would be found by content, and its request looks different."""
    made = create_link(shop.services, shop.instance_id, new(price="4.5"), reference="r1")

    again = create_link(shop.services, shop.instance_id, new(title="Tea ", price="4.50"), reference="r1")

    assert (again.how, again.link_id) == (How.KNOWN, made.link_id)


def test_a_known_link_is_known_while_wix_is_away_and_after_it_was_deleted(shop: Shop) -> None:
    made = create_link(shop.services, shop.instance_id, new(), reference="r1")
    shop.sandbox.faults.add({"kind": "status", "status": 503})

    again = create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert (again.how, again.link_id, again.link.id) == (How.KNOWN, made.link_id, str(made.link_id))
    shop.sandbox.faults.remove(None)
    shop.services.wix.delete_link(shop.instance_id, made.link_id)
    assert create_link(shop.services, shop.instance_id, new(), reference="r1").link_id == made.link_id


def test_a_link_taken_from_its_maker_is_given_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sandbox.faults.add({"kind": "status", "status": 503, "count": 1, "path": f"={wire.PATH_LINKS}"})
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference="r1")
    ask = shop.services.wix.create_link

    def ask_and_sleep(*arguments: Any) -> Any:
        made = ask(*arguments)
        shop.pass_time(timedelta(hours=2))  # beyond the lease
        assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND
        return made

    monkeypatch.setattr(shop.services.wix, "create_link", ask_and_sleep)
    with capture_logs() as told:
        made = create_link(shop.services, shop.instance_id, new(), reference="r2")

    assert [one["event"] for one in told if one["log_level"] == "error"] == ["creation_taken_back"]
    rows = shop.rows("SELECT reference, status, payment_link_id FROM link_creations ORDER BY 1")
    assert [tuple(row) for row in rows] == [("r1", "unclear", None), ("r2", "created", made.link_id)]


def test_a_backslash_is_no_odd_character(shop: Shop) -> None:
    made = create_link(shop.services, shop.instance_id, new(title="C:\\u0000"), reference="r\\u0000")

    assert made.link.title == "C:\\u0000"


@pytest.mark.parametrize("reference", ["", "r" * 101, "nul\x00", "half\ud800"])
def test_a_reference_that_nothing_could_hold_is_refused(shop: Shop, reference: str) -> None:
    with pytest.raises(CreationConflict):
        create_link(shop.services, shop.instance_id, new(), reference=reference)

    assert links_at_wix(shop) == 0


def test_text_that_nothing_could_hold_is_refused_before_anything_is_asked(shop: Shop) -> None:
    with pytest.raises(CreationConflict):
        create_link(shop.services, shop.instance_id, new(title="nul\x00"), reference="r1")

    assert links_at_wix(shop) == 0


def test_no_transaction_is_open_while_wix_is_asked(shop: Shop) -> None:
    asked = threading.Event()
    shop.sandbox.faults.add({"kind": "hang", "seconds": 0.3, "count": 1, "path": wire.PATH_LINKS})
    seen: list[int] = []

    def watch() -> None:
        while not asked.is_set():
            rows = shop.rows(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
                " AND datname = current_database() AND state_change < clock_timestamp() - interval '150 ms'"
            )
            seen.append(rows[0].count)

    watcher = threading.Thread(target=watch)
    watcher.start()
    create_link(shop.services, shop.instance_id, new(), reference="r1")
    asked.set()
    watcher.join()

    assert max(seen) == 0


# -- Whether it is the same link -------------------------------------------------------------------

LATER = datetime(2030, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def told(asked: wire.NewPaymentLink, **more: Any) -> wire.PaymentLink:
    """How Wix would show what was asked for."""
    link = {
        "id": "6a206d71-52f5-4012-b3dd-8a283fea052e",
        "title": asked.title.strip(),
        "currency": asked.currency,
        "type": asked.type,
        "ecomPaymentLink": {
            "lineItems": [
                {"type": "CUSTOM", "customItem": {"name": "Tea", "quantity": 1, "price": "4.50", "novel": 1}}
            ]
        },
        **more,
    }
    return msgspec.convert(link, wire.PaymentLink)


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (new(), {}),
        (new(title=" Tea\u200b "), {"title": "Tea"}),
        (new(payments_limit=3), {"paymentsLimit": 3}),
        (new(description="x"), {"description": "x"}),
        (new(expiration_date=LATER), {"expirationDate": "2030-01-01T12:00:00.123Z"}),
        (new(), {"source": {"appId": "us"}}),
        (new(description=" x "), {"description": "x"}),
        (new(recipients=[wire.Recipient("c")]), {"recipients": [{"contactId": "c", "sendMethods": []}]}),
    ],
)
def test_a_link_of_the_same_content_is_recognized(asked: wire.NewPaymentLink, more: dict[str, Any]) -> None:
    assert is_made_of(told(asked, **more), asked, "us")


@pytest.mark.parametrize(
    "more",
    [
        {"title": "Coffee"},
        {"currency": "USD"},
        {"type": "ECOM_ORDER"},
        {"paymentsLimit": 1},
        {"description": "x"},
        {"expirationDate": "2030-01-01T12:00:00.123Z"},
        {"source": {"appId": "them"}},
        {"ecomPaymentLink": {"lineItems": []}},
        {"ecomPaymentLink": {"lineItems": "odd"}},
        {"ecomPaymentLink": None},
        {
            "ecomPaymentLink": {
                "lineItems": [
                    {"type": "CUSTOM", "customItem": {"name": "Tea", "quantity": 1, "price": "4.51"}}
                ]
            }
        },
        {"ecomOrderPaymentLink": {"orderId": "o", "amount": "1"}},
        {"recipients": [{"contactId": "somebody"}]},
    ],
)
def test_a_link_of_another_content_is_not(more: dict[str, Any]) -> None:
    assert not is_made_of(told(new(), **more), new(), "us")


@pytest.mark.parametrize(
    ("order", "is_same"),
    [
        ({"orderId": "o", "amount": "30.00"}, True),
        ({"orderId": "o", "amount": "30"}, True),
        ({"orderId": "o", "amount": "31"}, False),
        ({"orderId": "p", "amount": "30"}, False),
        (None, False),
    ],
)
def test_a_link_to_an_order_is_recognized_by_order_and_amount(
    order: dict[str, str] | None, is_same: bool
) -> None:
    asked = wire.NewPaymentLink(
        title="Deposit",
        currency="USD",
        type="ECOM_ORDER",
        ecom_order_payment_link=wire.EcomOrderPaymentLink("o", "30.00"),
    )
    seen = told(asked, paymentsLimit=1, ecomPaymentLink=None, ecomOrderPaymentLink=order)

    assert is_made_of(seen, asked, None) is is_same
