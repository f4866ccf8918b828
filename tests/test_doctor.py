"""What `doctor` finds, and that it calls nothing well that it did not try."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from redis import Redis
from rq.serializers import JSONSerializer

from processor import doctor
from processor.cli import cli
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
