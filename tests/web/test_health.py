from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine

from processor import wiring
from processor.config import Settings
from processor.config import database_url as sqlalchemy_url
from processor.domain.alert import Channel, DeliveryKind
from processor.processes import free_port
from processor.store import alerts, migrations, runs
from processor.web import create_app
from tests import builders


@contextmanager
def served(**environ: str) -> Iterator[FlaskClient]:
    settings = Settings.read({"WIX_PUBLIC_KEYS": builders.public_pem(), **environ})
    services = wiring.build(settings, role="web")
    app = create_app(services)
    yield app.test_client()
    app.extensions["intake"].close()
    services.close()


def test_it_is_ready_when_database_and_migrations_are(database_url: str, redis_url: str) -> None:
    with served(DATABASE_URL=database_url, REDIS_URL=redis_url) as client:
        answer = client.get("/readyz")

        assert answer.status_code == 200
        assert answer.json == {"ready": True, "database": "ok", "migration": "at head", "redis": "ok"}
        assert client.get("/healthz").status_code == 200


def test_it_is_ready_without_redis_and_says_so(database_url: str) -> None:
    with served(DATABASE_URL=database_url, REDIS_URL=f"redis://127.0.0.1:{free_port()}") as client:
        answer = client.get("/readyz")

        assert answer.status_code == 200
        assert answer.json is not None
        assert answer.json["redis"] == "unreachable"


def test_it_is_not_ready_before_the_migrations(empty_database_url: str) -> None:
    with served(DATABASE_URL=empty_database_url) as client:
        answer = client.get("/readyz")

        assert answer.status_code == 503
        assert answer.json is not None
        assert answer.json["migration"] == f"at nothing, want {migrations.head()}"


def test_it_stays_ready_when_the_next_release_has_migrated(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with served(DATABASE_URL=database_url) as client:
        answer = client.get("/readyz")

    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["migration"] == "at 9999, newer than this code"


def test_it_is_alive_but_not_ready_without_a_database() -> None:
    with served(DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/x") as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert "processor_database_up 0.0" in client.get("/metrics").text


def test_metrics_count_deliveries_and_what_waits(database_url: str, redis_url: str) -> None:
    with served(DATABASE_URL=database_url, REDIS_URL=redis_url) as client:
        client.post("/webhooks/wix", data=builders.sign(builders.of_today(builders.payment_claims())))
        families = {
            family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)
        }

    held = [one for one in families["processor_deliveries"].samples if one.labels.get("outcome") == "held"]
    assert held
    assert families["processor_held_events"].samples[0].value == 1
    assert families["processor_database_up"].samples[0].value == 1
    assert "processor_answer_seconds" in families


def test_metrics_tell_of_alerts_and_of_messages_that_wait(database_url: str) -> None:
    engine = create_engine(sqlalchemy_url(database_url))
    with engine.begin() as connection:
        runs.count(connection, "alerts", {"discrepancy_opened": 3})
        runs.count(connection, "alert_deliveries", {"mail delivered": 2})
        alerts.ensure_channels(connection, [Channel.MAIL])
        alerts.deliver(
            *(connection, Channel.MAIL, DeliveryKind.DIGEST, {}, datetime.now(UTC) - timedelta(minutes=1))
        )
    engine.dispose()

    with served(DATABASE_URL=database_url) as client:
        said = client.get("/metrics").text

    assert 'processor_alerts_total{kind="discrepancy_opened"} 3.0' in said
    assert 'processor_alert_deliveries_total{channel="mail",outcome="delivered"} 2.0' in said
    assert 'processor_alert_messages_waiting{channel="mail"} 1.0' in said
    assert 'processor_alert_oldest_seconds{channel="mail"} 6' in said


def test_metrics_may_be_kept_for_who_bears_the_token(database_url: str) -> None:
    with served(DATABASE_URL=database_url, METRICS_TOKEN="s3cret") as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer é"}).status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer s3cret"}).status_code == 200
