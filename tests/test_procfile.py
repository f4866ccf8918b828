"""The processes as a host starts them: by the lines of the Procfile, from the environment alone."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from processor.outgoing import LOCAL, is_local_ready
from processor.processes import Child, free_port, wait_until
from tests import builders

ROOT = Path(__file__).resolve().parents[1]
LINES = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))


@pytest.fixture
def environ(empty_database_url: str, redis_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": PATH,
        "DATABASE_URL": empty_database_url.replace("postgresql://", "postgres://"),
        "REDIS_URL": redis_url,
        "WIX_PUBLIC_KEYS": builders.public_pem(),
        "PORT": str(free_port()),
        "BODY_BYTES_MAX": "20000",
    }


def release(environ: dict[str, str], folder: Path) -> None:
    """Run the release phase to its end."""
    running = child(LINES["release"], environ, folder)
    wait_until(lambda: not running.is_running, what="the migrations", seconds=60)
    assert running.stop() == 0, running.tail()


def child(command: str, environ: dict[str, str], folder: Path) -> Child:
    made = Child(
        command,
        shlex.split(f"sh -c {shlex.quote(f'exec {command}')}"),
        environ=environ,
        log_file=folder / "log",
    )
    made.start()
    return made


@pytest.fixture(params=[LINES["web"], "gunicorn --threads 4 wsgi:app"], ids=["Procfile", "gunicorn"])
def web(
    request: pytest.FixtureRequest, environ: dict[str, str], tmp_path: Path
) -> Iterator[tuple[Child, str]]:
    release(environ, tmp_path)
    running = child(request.param, environ, tmp_path)
    url = f"http://127.0.0.1:{environ['PORT']}"

    wait_until(lambda: is_local_ready(f"{url}/readyz"), what="the web server", seconds=60, children=[running])
    yield running, url
    running.stop()


def test_the_web_process_takes_webhooks_and_ends_on_request(web: tuple[Child, str]) -> None:
    running, url = web
    body = builders.sign(builders.of_today(builders.payment_claims()))

    with httpx2.Client(base_url=url, timeout=5, **LOCAL) as client:
        plain = client.post("/webhooks/wix", content=body, headers={"Content-Type": "text/plain"})
        chunked = client.post("/webhooks/wix", content=iter([body[:100], body[100:]]))
        large = client.post("/webhooks/wix", content=b"x" * 20_001)
        large_chunked = client.post("/webhooks/wix", content=iter([b"x" * 15_000] * 2))

    assert (plain.status_code, plain.content) == (200, b"")
    assert chunked.status_code == 200
    assert [large.status_code, large_chunked.status_code] == [413, 413]
    assert running.stop() == 0, running.tail()


@pytest.mark.parametrize("name", ["worker", "clock"])
def test_worker_and_clock_start_and_end_on_request(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    release(environ, tmp_path)

    running = child(LINES[name], environ, tmp_path)
    wait_until(lambda: f"{name}_started" in running.tail(), what="its start", seconds=60, children=[running])

    assert running.stop() == 0
    assert f"{name}_stopped" in running.tail()
