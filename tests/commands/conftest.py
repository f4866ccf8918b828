from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from processor import logs, wiring
from processor.cli import cli
from tests.commands.running import Run
from tests.shop import Shop, a_shop


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url) as running:
        running.deliver()
        yield running


@pytest.fixture
def run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command as the command line does, with services of its own; its log goes nowhere."""

    def build(role: str, environ: object = None) -> wiring.Services:
        return wiring.build(shop.services.settings, role=role, now=shop.services.now)

    monkeypatch.setattr(wiring, "from_environ", build)
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)

    def command(*arguments: object, code: int = 0, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(one) for one in arguments], input=input)
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    with capture_logs():
        yield command
