"""The endpoint as Wix meets it."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from werkzeug.test import Client

from processor import logs, wiring
from processor.config import Settings
from processor.processes import free_port, wait_until
from processor.web import create_app, create_front
from processor.wiring import Services
from tests import builders
from tests.builders import app_claims, claims, envelope, payment_claims, sign
from tests.web.granianlike import Unattended


def services_for(**environ: str) -> Services:
    settings = Settings.read({"WIX_PUBLIC_KEYS": builders.public_pem(), **environ})
    return wiring.build(settings, role="web", now=lambda: builders.NOW)


@pytest.fixture
def services(database_url: str, redis_url: str) -> Iterator[Services]:
    built = services_for(DATABASE_URL=database_url, REDIS_URL=redis_url, BODY_BYTES_MAX="20000")
    yield built
    built.close()


# By which the webhook is served. They must not differ in anything.
WAYS = ["no thread waits", "through Flask"]


@contextmanager
def serving(services: Services, way: str) -> Iterator[Client]:
    if way == "through Flask":
        app = create_app(services)
        yield app.test_client()
        app.extensions["intake"].close()
    else:
        front = create_front(services)
        yield Client(Unattended(front))
        front.close()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(services: Services, way: str) -> Iterator[Client]:
    with serving(services, way) as client:
        yield client


def post(client: Client, body: bytes) -> Any:
    return client.post("/webhooks/wix", data=body, content_type="text/plain")


def count(services: Services, table: str) -> int:
    with services.database.begin() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


@pytest.mark.fact("D1", "D3", "D8", "U3")
def test_a_signed_event_is_answered_200_with_an_empty_body_and_stored(
    client: Client, services: Services
) -> None:
    post(client, sign(app_claims("AppInstalled")))

    answer = post(client, sign(payment_claims()))

    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["X-Request-Id"]
    assert count(services, "payments") == 1


@pytest.mark.fact("D14")
def test_a_duplicate_an_unknown_type_and_an_unreadable_body_are_answered_200(
    client: Client, services: Services
) -> None:
    body = sign(payment_claims())
    unknown = sign(claims(envelope({"id": str(uuid4())}, eventType="wix.ecom.v1.order_approved")))
    unreadable = sign(payment_claims(amount="x"))
    nameless = sign(claims("{"))

    answers = [post(client, one).status_code for one in (body, body, unknown, unreadable, nameless)]

    assert answers == [200] * 5
    assert count(services, "webhook_events") == 3
    assert count(services, "unread_deliveries") == 1


@pytest.mark.fact("J1", "J11")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "body_empty"),
        (b"not a token", "not_a_token"),
        (b"\xff\xfe\x00", "not_a_token"),
        (sign({"data": "{}"}, builders.private_key(1)), "signature_invalid"),
        (sign(payment_claims())[:-20], "signature_invalid"),
        (sign({"data": "{}", "exp": 1}), "expired"),
    ],
)
def test_what_is_not_wixs_is_answered_401_and_counted_by_reason(
    client: Client, services: Services, body: bytes, reason: str
) -> None:
    answer = post(client, body)

    assert (answer.status_code, answer.data) == (401, b"")
    assert count(services, "webhook_events") == 0

    def is_counted() -> bool:
        with services.database.begin() as connection:
            found = connection.execute(text("SELECT reason, delivery_count FROM rejection_counts")).all()
        return [tuple(row) for row in found] == [(reason, 1)]

    wait_until(is_counted, what="the count", seconds=10)


@pytest.mark.fact("D1", "U2")
def test_only_post_is_allowed_and_large_bodies_are_refused(client: Client) -> None:
    assert client.get("/webhooks/wix").status_code == 405
    assert post(client, b"x" * 20_001).status_code == 413
    assert client.post("/elsewhere").status_code == 404


@pytest.mark.parametrize("surplus", [0, 1])
def test_a_body_whose_length_is_not_told_is_read_to_its_end_and_no_further(
    client: Client, surplus: int
) -> None:
    body = io.BytesIO(b"x" * (20_000 + surplus) + b"never read" * surplus)

    answer = client.post(
        "/webhooks/wix", input_stream=body, environ_overrides={"wsgi.input_terminated": True}
    )

    assert answer.status_code == (413 if surplus else 401)
    assert body.tell() <= 20_001


def test_a_body_that_ends_early_is_no_token(client: Client) -> None:
    short = io.BytesIO(sign(payment_claims())[:-9])

    answer = client.post(
        "/webhooks/wix",
        input_stream=short,
        content_length=5_000,
        environ_overrides={"wsgi.errors": io.StringIO()},
    )

    assert answer.status_code in (400, 401)


def test_a_database_that_is_away_is_answered_503_in_time(way: str) -> None:
    services = services_for(DATABASE_URL=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with serving(services, way) as client:
        began = time.monotonic()

        answers = [
            post(client, sign(told)).status_code
            for told in (payment_claims(), app_claims("AppInstalled"), claims("{"))
        ]

        assert answers == [503] * 3
        assert time.monotonic() - began < 10
    services.close()


def test_redis_being_away_costs_an_event_nothing(database_url: str, way: str) -> None:
    services = services_for(DATABASE_URL=database_url, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    with serving(services, way) as client:
        assert post(client, sign(payment_claims())).status_code == 200
        assert count(services, "check_requests") == 1
    services.close()


def test_many_events_send_few_wake_ups(client: Client, services: Services, redis_url: str) -> None:
    for _ in range(30):
        post(client, sign(payment_claims(id=str(uuid4()))))

    with redis.Redis.from_url(redis_url) as connection:
        wait_until(lambda: bool(connection.llen("rq:queue:reconcile")), what="a wake-up", seconds=10)
        assert connection.llen("rq:queue:reconcile") < 30


def test_a_value_no_column_takes_is_kept_unread_rather_than_refused(
    client: Client, services: Services
) -> None:
    with services.database.begin() as connection:
        connection.execute(
            text("ALTER TABLE webhook_events ADD CONSTRAINT picky CHECK (slug IS DISTINCT FROM 'created')")
        )

    assert post(client, sign(payment_claims())).status_code == 200

    with services.database.begin() as connection:
        row = connection.execute(text("SELECT status, reason FROM webhook_events")).one()
    assert tuple(row) == ("unreadable", "not_storable")


@contextmanager
def logs_as_in_production() -> Iterator[None]:
    """Configured by us, then as pytest had it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    loggers = [one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    levels = {one.name: one.level for one in loggers}
    logs.configure("DEBUG", "json", process="web")
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in (*levels, *logs.QUIET):
            logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


def test_no_log_line_holds_a_person_or_a_token(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    body = sign(payment_claims())
    with logs_as_in_production():
        for one in (body, body, sign(payment_claims(amount="x")), b"secret.forged.token", sign(claims("{"))):
            post(client, one)

    said = capsys.readouterr().err
    lines = [json.loads(line) for line in said.splitlines()]
    assert {line["action"] for line in lines} >= {"delivery_stored", "delivery_rejected", "delivery_unread"}
    assert all(
        line["process"] == "web" and line["request_id"] for line in lines if "delivery" in line["action"]
    )
    for personal in ("Hedwig", "hedwig@example.com", "Springfield", "*4242", "forged", body.decode()[:40]):
        assert personal not in said


def test_no_body_makes_a_server_error(client: Client) -> None:
    names = sorted(builders.payment_entity())
    values = (
        st.none()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from(["\x00", "\ud800", "1e9", "9" * 400])
        | st.lists(st.text(max_size=3), max_size=2)
        | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
    )

    @given(st.binary(max_size=200))
    @settings(max_examples=60)
    def arbitrary_bytes(body: bytes) -> None:
        assert post(client, body).status_code in (200, 401)

    @given(st.dictionaries(st.sampled_from(names), values, max_size=4), st.booleans())
    @settings(max_examples=120)
    def arbitrary_payments(changes: dict[str, Any], is_text: bool) -> None:
        entity = builders.payment_entity(**{"id": str(uuid4()), **changes})
        inner = builders.event(entity)
        if is_text:
            inner["createdEvent"] = {"entityAsJson": json.dumps(entity)}
        told = claims(envelope(json.dumps(inner)))
        assert post(client, sign(json.dumps(told).encode())).status_code == 200

    @given(values)
    @settings(max_examples=40)
    def arbitrary_levels(value: Any) -> None:
        for told in (
            {"data": value},
            claims(json.dumps(value)),
            claims(envelope(json.dumps(value))),
            claims(envelope(instanceId=value)),
            claims(envelope(eventType=value)),
        ):
            assert post(client, sign(json.dumps(told).encode())).status_code in (200, 401)

    post(client, sign(app_claims("AppInstalled")))
    arbitrary_bytes()
    arbitrary_payments()
    arbitrary_levels()
