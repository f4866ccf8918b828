"""The pages beside the webhook: neither keeps the other waiting."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from processor.web import doors
from processor.web.doors import Doors


def answer(name: str, parts: Callable[[], Iterable[bytes]] | None = None) -> Any:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return parts() if parts else [name.encode()]

    return app


def ask(door: Doors, path: str) -> tuple[str, Iterable[bytes]]:
    said: list[str] = []
    parts = door({"PATH_INFO": path}, lambda status, headers: said.append(status))  # type: ignore[arg-type]
    return said[0], parts


@pytest.mark.parametrize("path", ["/webhooks/wix", "/healthz", "/readyz", "/metrics"])
def test_the_service_answers_for_itself(path: str) -> None:
    door = Doors(answer("service"), answer("pages"), at_once=1)

    assert b"".join(ask(door, path)[1]) == b"service"


@pytest.mark.parametrize("path", ["/", "/payments", "/health", "/sign-in"])
def test_everything_else_is_a_page(path: str) -> None:
    assert b"".join(ask(Doors(answer("service"), answer("pages"), at_once=1), path)[1]) == b"pages"
    assert b"".join(ask(Doors(answer("service"), None, at_once=1), path)[1]) == b"service"


def stream(ended: list[str]) -> Iterator[bytes]:
    try:
        yield b"one"
        yield b"two"
    finally:
        ended.append("ended")


def test_a_page_that_is_streamed_takes_its_room_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "WAIT_SECONDS", 0)
    ended: list[str] = []
    door = Doors(answer("service"), answer("", lambda: stream(ended)), at_once=1)

    _, first = ask(door, "/")
    assert next(iter(first)) == b"one"
    status, words = ask(door, "/")
    assert status.startswith("503")
    assert b"try again" in b"".join(words)
    assert b"".join(ask(door, "/healthz")[1]) == b"service", "the service never waits for pages"
    first.close()  # type: ignore[attr-defined]

    assert ended == ["ended"]
    assert ask(door, "/")[0] == "200 OK"


@pytest.mark.parametrize("how", ["read", "closed", "closed twice", "forgotten", "fails"])
def test_a_room_is_given_back_once_however_it_ends(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(doors, "WAIT_SECONDS", 0)

    def failing() -> Iterator[bytes]:
        yield b"one"
        raise RuntimeError("half way")

    door = Doors(answer("service"), answer("", failing if how == "fails" else lambda: stream([])), at_once=1)
    for _ in range(3):
        status, parts = ask(door, "/")
        assert status == "200 OK"
        if how == "read":
            list(parts)
            parts.close()  # type: ignore[attr-defined]
        elif how.startswith("closed"):
            for _ in range(how.count(" ") + 1):
                parts.close()  # type: ignore[attr-defined]
        elif how == "fails":
            with pytest.raises(RuntimeError):
                list(parts)
        del parts
        gc.collect()


def test_a_page_that_fails_at_once_gives_its_room_back() -> None:
    def failing(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise RuntimeError("at once")

    door = Doors(answer("service"), failing, at_once=1)

    for _ in range(3):
        with pytest.raises(RuntimeError):
            ask(door, "/")


def test_a_page_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Doors(answer("service"), answer("", lambda: stream([])), at_once=1)
    _, first = ask(door, "/")
    said: list[str] = []
    waiting = threading.Thread(target=lambda: said.append(ask(door, "/")[0]))

    waiting.start()
    first.close()  # type: ignore[attr-defined]
    waiting.join()

    assert said == ["200 OK"]
