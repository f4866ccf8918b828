"""What `doctor` finds, and that it calls nothing well that it did not try."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from redis import Redis
from rq.serializers import JSONSerializer
from sqlalchemy import create_engine, text

from processor import doctor
from processor.cli import cli
from processor.config import database_url as sqlalchemy_url
from processor.processes import free_port
from processor.queue import QUEUE
from processor.worker import Worker
from tests import builders


@pytest.fixture
def environ(database_url: str, redis_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "WIX_APP_ID": "6a206d71-52f5-4012-b3dd-8a283fea052e",
        "WIX_APP_SECRET": "secret",
        "WIX_PUBLIC_KEYS": builders.public_pem(),
    }


@pytest.fixture
def worker(redis_url: str) -> Iterator[Worker]:
    with Redis.from_url(redis_url) as connection:
        running = Worker([QUEUE], connection=connection, serializer=JSONSerializer)
        running.register_birth()  # type: ignore[no-untyped-call]
        yield running
        running.register_death()  # type: ignore[no-untyped-call]


def found(environ: dict[str, str], name: str) -> doctor.Finding:
    return {one.name: one for one in doctor.examine(environ)}[name]


def test_no_worker_is_not_well(environ: dict[str, str]) -> None:
    told = found(environ, "worker")

    assert (told.is_ok, told.detail) == (False, "none is running")
    assert told.remedy is not None
    assert "processor worker" in told.remedy


def test_a_running_worker_is_counted(environ: dict[str, str], worker: Worker) -> None:
    told = found(environ, "worker")

    assert (told.is_ok, told.detail, told.remedy) == (True, "1 running", None)


def test_a_worker_whose_mark_expired_is_none(environ: dict[str, str], worker: Worker) -> None:
    worker.connection.delete(worker.key)

    assert found(environ, "worker").is_ok is False


def test_what_was_not_tried_is_called_neither_well_nor_wrong(environ: dict[str, str]) -> None:
    away = environ | {"REDIS_URL": f"redis://127.0.0.1:{free_port()}"}

    assert (found(away, "redis").is_ok, found(away, "worker").is_ok) == (False, None)
    assert found(environ, "wix").is_ok is None


def test_each_finding_has_the_mark_of_what_was_found(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    said = CliRunner().invoke(cli, ["doctor"])

    assert said.exit_code == 1
    assert "ok    redis: answers\n" in said.stdout
    assert "FAIL  worker: none is running\n" in said.stdout
    assert "?     wix: not tried" in said.stdout


def test_what_was_not_tried_alone_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _: [doctor.Finding("wix", None, "not tried")])

    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 0


# -- Alerts ----------------------------------------------------------------------------------------

MAILED = {
    "ALERT_SMTP_URL": "smtp://shop:hidden@127.0.0.1:1",
    "ALERT_MAIL_FROM": "processor@example.com",
    "ALERT_MAIL_TO": "finance@example.com",
}


def waits(database_url: str, *, status: str, age: timedelta = timedelta()) -> None:
    """A message to the mail channel."""
    engine = create_engine(sqlalchemy_url(database_url))
    made_at = datetime.now(UTC) - age
    is_waiting = status == "waiting"
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO alert_channels (channel) VALUES ('mail') ON CONFLICT DO NOTHING")
        )
        connection.execute(
            text(
                "INSERT INTO alert_deliveries (delivery_id, channel, kind, document, alert_count, status, made_at,"
                " waiting_since, due_at, ended_at, last_error) VALUES (gen_random_uuid(), 'mail', 'alert', '{}', 1,"
                " :status, :made_at, :made_at, :due_at, :ended_at, 'the mail server answered 451')"
            ),
            {
                "status": status,
                "made_at": made_at,
                "due_at": made_at if is_waiting else None,
                "ended_at": None if is_waiting else made_at,
            },
        )
    engine.dispose()


def test_where_alerts_go_is_said(environ: dict[str, str]) -> None:
    assert "told to the log alone" in found(environ, "alerts").detail
    assert found(environ | MAILED, "alerts").detail == "told by mail"
    assert found(environ, "alerts").is_ok is True


@pytest.mark.parametrize(
    ("status", "age", "is_ok"),
    [
        ("waiting", timedelta(minutes=5), True),
        ("waiting", timedelta(hours=2), False),
        ("given_up", timedelta(days=1), False),
        ("given_up", timedelta(days=8), True),
        ("delivered", timedelta(hours=2), True),
    ],
)
def test_alerts_that_do_not_arrive_are_not_well(
    environ: dict[str, str], database_url: str, status: str, age: timedelta, is_ok: bool
) -> None:
    waits(database_url, status=status, age=age)

    told = found(environ | MAILED, "alerts")

    assert told.is_ok is is_ok
    if not is_ok:
        assert "the mail server answered 451" in told.detail
        assert "processor alerts" in (told.remedy or "")


def test_a_channel_that_is_not_configured_any_more_keeps_nothing_to_itself(
    environ: dict[str, str], database_url: str
) -> None:
    waits(database_url, status="waiting")

    assert "not configured any more" in found(environ, "alerts").detail
