"""The webhook in front of Flask: whichever thread does the work, every request is answered once, and in time."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import islice
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from processor import wiring
from processor.config import Settings
from processor.processes import wait_until
from processor.store import inbox
from processor.web import afterwork, bridge, create_front, front, patience, webhooks
from processor.web.front import Front
from processor.wiring import Services
from processor.wix import signature
from tests import builders
from tests.builders import app_claims, payment_claims, sign
from tests.store.helpers import lock_waits
from tests.web.granianlike import Kept

# A busy machine must not make an answer another: longer than can be configured.
PATIENT_SECONDS = 20.0


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    environ = {
        "WIX_PUBLIC_KEYS": builders.public_pem(),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
    }
    return replace(Settings.read(environ), answer_seconds=PATIENT_SECONDS)


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    with contextlib.closing(wiring.build(settings, role="web", now=lambda: builders.NOW)) as built:
        yield built


@pytest.fixture
def served(services: Services) -> Iterator[Front]:
    made = create_front(services)
    assert ask(made, sign(app_claims("AppInstalled"))).wait() == 200
    assert ask(made, sign(payment_claims(id=str(uuid4())))).wait() == 200  # its lanes are open
    yield made
    made.close()


def ask(served: Front, body: bytes, **environ: Any) -> Kept:
    """One request, taken by this thread."""
    kept = Kept()
    request = {
        "PATH_INFO": webhooks.PATH,
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **environ,
    }
    served.take(kept, request, not_ours)
    return kept


def not_ours(response: object, environ: dict[str, Any]) -> None:
    raise AssertionError("a webhook is not for Flask")


def a_delivery() -> bytes:
    return sign(payment_claims({"id": str(uuid4())}, id=str(uuid4())))


def stored(services: Services) -> int:
    with services.database.begin() as connection:
        found = connection.execute(text("SELECT count(*) FROM webhook_events WHERE kind = 'payment'"))
        return int(found.scalar_one())


@contextlib.contextmanager
def events_locked(services: Services) -> Iterator[None]:
    """Nothing can be stored meanwhile."""
    with services.database.engine.begin() as connection:
        connection.execute(text("LOCK TABLE webhook_events"))
        yield


def test_many_threads_are_answered_once_each_and_all_is_stored(served: Front, services: Services) -> None:
    bodies = [a_delivery() for _ in range(300)]

    with ThreadPoolExecutor(24) as pool:
        kept = list(pool.map(lambda body: ask(served, body), bodies))

    assert {one.wait() for one in kept} == {200}
    assert {one.answers for one in kept} == {1}
    assert len({dict(one.headers)["X-Request-Id"] for one in kept}) == 300
    assert stored(services) == 1 + 300


# -- What is not the webhook's -----------------------------------------------------------------------


class Ordinary:
    """Granian's own way, which notes what it was called with, and answers 200 when it may."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.threads: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, response: bridge.Response, environ: dict[str, Any]) -> None:
        assert self.may_answer.wait(20)
        self.threads.append(threading.current_thread().name)
        self.bodies.append(environ["wsgi.input"].read())
        response.response_bytes(200, [], b"page")


def ask_other(served: Front, ordinary: Ordinary, method: str, body: bytes = b"", **environ: Any) -> Kept:
    kept = Kept()
    request = {"PATH_INFO": "/payments", "REQUEST_METHOD": method, "wsgi.input": io.BytesIO(body), **environ}
    served.take(kept, request, ordinary)
    return kept


@pytest.mark.parametrize("length", [{"CONTENT_LENGTH": "8"}, {}], ids=["of known length", "chunked"])
def test_all_but_the_webhook_is_answered_on_other_threads_its_body_whole(
    served: Front, length: dict[str, str]
) -> None:
    ordinary = Ordinary()

    assert ask_other(served, ordinary, "GET").wait() == 200
    assert ask_other(served, ordinary, "GET", PATH_INFO=webhooks.PATH).wait() == 200
    assert ask_other(served, ordinary, "POST", b"a=b&c=d.", **length).wait() == 200
    assert ordinary.bodies == [b"", b"", b"a=b&c=d."]
    assert all(name.startswith("request") for name in ordinary.threads)


def test_pages_that_take_long_keep_no_webhook_waiting(served: Front) -> None:
    ordinary = Ordinary()
    ordinary.may_answer.clear()
    pages = [ask_other(served, ordinary, "GET") for _ in range(200)]

    assert ask(served, a_delivery()).wait() == 200
    assert not any(page.answers for page in pages)
    ordinary.may_answer.set()
    assert {page.wait() for page in pages} == {200}


def test_another_body_is_bounded_as_well_and_may_end_early(served: Front, services: Services) -> None:
    ordinary = Ordinary()
    most = services.settings.body_bytes_max

    assert ask_other(served, ordinary, "POST", b"x" * (most + 1)).wait() == 413
    assert ask_other(served, ordinary, "POST", b"", CONTENT_LENGTH=str(most + 1)).wait() == 413
    assert ask_other(served, ordinary, "PUT", b"abc", CONTENT_LENGTH="4").wait() == 400
    assert ordinary.bodies == []


class Dripping(io.BytesIO):
    """A body that does not come before it may."""

    may_come = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        assert self.may_come.wait(20)
        return super().read(size)


def ask_dripping(served: Front, ordinary: Ordinary) -> Kept:
    kept = Kept()
    request = {"PATH_INFO": "/payments", "REQUEST_METHOD": "POST", "wsgi.input": Dripping(b"a=b")}
    served.take(kept, request, ordinary)
    return kept


def test_forms_that_drip_leave_threads_for_webhooks(
    served: Front, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BODY_SECONDS", 100.0)
    monkeypatch.setattr(Dripping, "may_come", threading.Event())
    ordinary = Ordinary()
    threads = services.settings.intake_threads
    with ThreadPoolExecutor(threads) as pool:
        dripping = [pool.submit(ask_dripping, served, ordinary) for _ in range(threads)]
        refused = [one.result() for one in islice(as_completed(dripping, 20), threads // 2)]
        assert {one.wait() for one in refused} == {503}
        assert ask(served, a_delivery()).wait() == 200
        Dripping.may_come.set()

    answers = Counter(one.result().wait() for one in dripping)
    assert answers == {200: threads // 2, 503: threads - threads // 2}
    assert ask_other(served, ordinary, "POST", b"c=d").wait() == 200


def test_forms_are_kept_only_so_many_until_they_are_answered(served: Front, services: Services) -> None:
    ordinary = Ordinary()
    ordinary.may_answer.clear()
    most = services.settings.web_threads
    forms = [ask_other(served, ordinary, "POST", b"a=b") for _ in range(most)]

    assert ask_other(served, ordinary, "POST", b"c=d").wait() == 503
    ordinary.may_answer.set()
    assert {form.wait() for form in forms} == {200}


def test_a_page_that_fails_is_answered(served: Front) -> None:
    def fail(response: bridge.Response, environ: dict[str, Any]) -> None:
        raise SystemExit("buyer@example.org")

    with capture_logs() as logs:
        kept = Kept()
        served.take(kept, {"PATH_INFO": "/payments", "REQUEST_METHOD": "GET"}, fail)
        assert kept.wait() == 500

    [line] = logs
    assert (line["event"], line["error"]) == ("request_failed", "SystemExit")
    assert "test_front.py" in str(line["frames"])
    assert "buyer" not in str(line)


def test_a_request_id_is_a_uuid_as_any_other() -> None:
    made = [UUID(front.request_id()) for _ in range(100)]

    assert {one.version for one in made} == {4}
    assert len(set(made)) == 100


# -- Whichever thread does the work ------------------------------------------------------------------


def test_while_a_commit_hangs_others_are_verified(served: Front, services: Services) -> None:
    database = services.database
    with ThreadPoolExecutor(4) as pool:
        with events_locked(services):
            held = [pool.submit(ask, served, a_delivery()) for _ in range(4)]
            wait_until(lambda: bool(lock_waits(database)), what="a commit to wait", seconds=PATIENT_SECONDS)

            assert ask(served, sign({"data": "{}"}, builders.private_key(1))).wait() == 401
        assert {one.result().wait() for one in held} == {200}


def test_a_commit_that_hangs_is_given_up(settings: Settings, services: Services) -> None:
    hasty = replace(settings, answer_seconds=0.5)
    with contextlib.closing(wiring.build(hasty, role="web", now=lambda: builders.NOW)) as built:
        made = create_front(built)
        with events_locked(services):
            assert [kept.wait() for kept in [ask(made, a_delivery()) for _ in range(4)]] == [503] * 4
        made.close()

    assert stored(services) == 0


def test_a_thread_that_only_reads_the_body_is_free_at_once(
    served: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else verifies: what comes meanwhile is left to them, up to a bound."""
    monkeypatch.setattr(front, "GATHERED_MAX", 2)
    is_verifying, may_go_on = threading.Event(), threading.Event()
    take = webhooks.Intake.take

    def slow(self: webhooks.Intake, delivery: webhooks.Taken) -> None:
        is_verifying.set()
        assert may_go_on.wait(20)
        take(self, delivery)

    monkeypatch.setattr(webhooks.Intake, "take", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, served, a_delivery())
        assert is_verifying.wait(20)
        gathered = [ask(served, a_delivery()) for _ in range(2)]
        too_many = ask(served, a_delivery())

        assert too_many.wait() == 503
        assert not any(one.answers for one in gathered)
        may_go_on.set()
        assert {first.result().wait(), *(one.wait() for one in gathered)} == {200}


def test_what_waited_too_long_to_be_verified_is_refused_unverified(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_front(services)
    monkeypatch.setattr(made, "_seconds", -1.0)

    with capture_logs() as logs:
        assert ask(made, b"no token").wait() == 503

    assert [line["event"] for line in logs] == ["delivery_not_stored"]
    made.close()


def test_a_fault_of_ours_is_one_deliverys_alone(
    served: Front, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = a_delivery()

    def verify(body: bytes, keys: Any) -> Any:
        if body == bad:
            raise ZeroDivisionError
        return signature.verify(body, keys)

    monkeypatch.setattr(webhooks, "verify", verify)
    with capture_logs() as logs:
        kept = [ask(served, body) for body in (a_delivery(), bad, a_delivery())]

    assert [one.wait() for one in kept] == [200, 503, 200]
    assert "delivery_failed" in [line["event"] for line in logs]
    assert stored(services) == 3


def test_what_takes_more_than_one_statement_is_bounded_and_holds_up_nothing_else(
    served: Front, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    store = inbox.Inbox.store

    def slow(self: inbox.Inbox, delivery: inbox.Delivery) -> inbox.Stored:
        assert may_go_on.wait(20)
        return store(self, delivery)

    monkeypatch.setattr(inbox.Inbox, "store", slow)
    rare = sign(app_claims("AppInstalled"))
    kept = [ask(served, rare) for _ in range(webhooks.RARE_MAX)]

    assert ask(served, rare).wait() == 503
    assert ask(served, a_delivery()).wait() == 200
    may_go_on.set()
    assert {one.wait() for one in kept} <= {200, 503}
    assert kept[0].wait() == 200


def test_a_body_that_ends_early_is_answered_and_not_verified(served: Front, services: Services) -> None:
    body = a_delivery()

    kept = ask(served, body[:-9], CONTENT_LENGTH=str(len(body)))

    assert kept.wait() == 400
    assert stored(services) == 1


def test_a_fault_in_counting_ends_no_counting_for_good(
    served: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    counted = threading.Event()

    def note(answers: Any, seconds: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError
        counted.set()

    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    monkeypatch.setattr(afterwork, "note_answers", note)
    ask(served, a_delivery())
    assert failed.wait(20)
    deadline = time.monotonic() + 20
    while not counted.wait(0.05) and time.monotonic() < deadline:
        ask(served, a_delivery())

    assert counted.is_set()


# -- The bridge to Granian ---------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("granian.server.mp")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_granian_has_what_the_bridge_replaces() -> None:
    """An upgrade that has not would make every webhook slower, and say so only in the log."""
    import granian.server.mp as real

    assert callable(real._wsgi_call_wrap)  # type: ignore[attr-defined]


def test_without_granian_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "granian.server.mp", raising=False)

    assert not bridge.install()


def test_another_granian_is_left_as_it_is_and_named(server: ModuleType) -> None:
    with capture_logs() as logs:
        assert not bridge.install()

    assert [line["event"] for line in logs] == ["server_unknown"]


@pytest.mark.parametrize("has_access_log", [False, True])
def test_each_request_is_given_to_the_application_with_its_response_and_the_ordinary_way(
    server: ModuleType, has_access_log: bool
) -> None:
    taken: list[tuple[object, dict[str, Any]]] = []
    called: list[dict[str, Any]] = []

    class App:
        def take(self, response: object, environ: dict[str, Any], ordinary: bridge.Ordinary) -> None:
            taken.append((response, environ))
            if environ["PATH_INFO"] == "/other":
                ordinary(response, environ)  # type: ignore[arg-type]

    def ordinary(app: object, options: dict[str, Any], access_log: object = None) -> Any:
        return lambda response, environ: called.append(environ)

    server._wsgi_call_wrap = ordinary  # type: ignore[attr-defined]
    assert bridge.install()
    run = server._wsgi_call_wrap(App(), {}, "format" if has_access_log else None)
    response = object()
    for path in ("/taken", "/other"):
        run(response, {"PATH_INFO": path})

    assert [environ["PATH_INFO"] for _, environ in taken] == ([] if has_access_log else ["/taken", "/other"])
    assert all(one is response for one, _ in taken)
    assert [one["PATH_INFO"] for one in called] == (["/taken", "/other"] if has_access_log else ["/other"])
    assert all(one[bridge.RESPONSE] is response for one in called)
