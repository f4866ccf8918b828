"""Tokens: asked for once, kept, renewed early, forgotten when refused, and never shown."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import pytest
import structlog

from processor.errors import ConfigurationError, WixUnauthorized, WixUnavailable
from processor.wix import client as client_module
from processor.wix.credentials import (
    REFRESH_AGAIN_SECONDS,
    REFRESH_BEFORE_SECONDS,
    ApiKeyCredentials,
    Credentials,
    OAuthCredentials,
)
from tests.wix.scripted import (
    HANG,
    TOKEN_PATH,
    Raw,
    Reply,
    Script,
    Scripted,
    deaf_port,
    head,
    scripted_server,
)

INSTANCE = UUID("3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162")
OTHER = UUID("aaaaaaaa-9a55-4a8e-8a2b-1d2e3f405162")
SECRET = "very-secret-7f3a"
LIFE = 14_400


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine, and hardly any wait between tries."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(client_module, "BACKOFF_SECONDS", 0.001)


@pytest.fixture
def wix() -> Iterator[Scripted]:
    with scripted_server() as scripted:
        yield scripted


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def responses() -> list[tuple[str, int | None]]:
    return []


Make = Callable[..., OAuthCredentials]


@pytest.fixture
def make(wix: Scripted, clock: Clock, responses: list[tuple[str, int | None]]) -> Iterator[Make]:
    made: list[OAuthCredentials] = []

    def build(base_url: str | None = None, timeout_seconds: float = 5) -> OAuthCredentials:
        one = OAuthCredentials(
            app_id="the-app",
            app_secret=SECRET,
            base_url=base_url or wix.base_url,
            timeout_seconds=timeout_seconds,
            on_response=lambda operation, status: responses.append((operation, status)),
            clock=clock,
        )
        made.append(one)
        return one

    yield build
    for one in made:
        one.close()


def token(name: str, life: float = LIFE) -> Reply:
    return Reply(body={"access_token": name, "expires_in": life, "token_type": "Bearer"})


# -- Asking for one --------------------------------------------------------------------------------


@pytest.mark.fact("A1", "A2", "A9")
def test_a_token_is_asked_for_as_documented_and_sent_bare(
    wix: Scripted, make: Make, responses: list[tuple[str, int | None]]
) -> None:
    headers = make().headers(INSTANCE)

    assert headers == {"Authorization": "token-1"}
    (asked,) = wix.asked
    assert (asked.method, asked.path) == ("POST", TOKEN_PATH)
    assert asked.headers["content-type"] == "application/json"
    assert asked.body == {
        "grant_type": "client_credentials",
        "client_id": "the-app",
        "client_secret": SECRET,
        "instance_id": str(INSTANCE),
    }
    assert responses == [("create_token", 200)]


@pytest.mark.fact("A4")
def test_each_instance_has_a_token_of_its_own(wix: Scripted, make: Make) -> None:
    wix.plan(TOKEN_PATH, token("one"), token("two"))
    credentials = make()

    assert [credentials.headers(one)["Authorization"] for one in (INSTANCE, OTHER, INSTANCE)] == [
        "one",
        "two",
        "one",
    ]


def test_twenty_threads_ask_once(wix: Scripted, make: Make) -> None:
    credentials = make()
    gate = threading.Barrier(20)

    def ask(_: int) -> str:
        gate.wait()
        return credentials.headers(INSTANCE)["Authorization"]

    with ThreadPoolExecutor(20) as pool:
        tokens = set(pool.map(ask, range(20)))

    assert tokens == {"token-1"}
    assert len(wix.asked) == 1


def test_one_instance_does_not_wait_for_another(wix: Scripted, make: Make) -> None:
    may_answer = threading.Event()

    def answer_first_late(_: object) -> Reply:
        may_answer.wait(10)
        return token("late")

    wix.plan(TOKEN_PATH, answer_first_late)
    credentials = make()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(credentials.headers, INSTANCE)
        wix.wait_for(TOKEN_PATH)

        assert credentials.headers(OTHER) == {"Authorization": "token-1"}

        assert not late.done()
        may_answer.set()
        assert late.result() == {"Authorization": "late"}


def test_threads_that_waited_in_vain_do_not_ask_again_one_by_one(wix: Scripted, make: Make) -> None:
    all_wait = threading.Event()

    def refuse_late(_: object) -> Reply:
        all_wait.wait(10)
        return Reply(403, {"error": "access_denied"})

    wix.otherwise(TOKEN_PATH, refuse_late)
    credentials = make()
    entered = threading.Semaphore(0)

    def ask(_: int) -> type[Exception]:
        entered.release()
        with pytest.raises(WixUnauthorized) as raised:
            credentials.headers(INSTANCE)
        assert raised.value.code == "access_denied"
        return raised.type

    with ThreadPoolExecutor(8) as pool:
        outcomes = pool.map(ask, range(8))
        for _ in range(8):
            entered.acquire()
        all_wait.set()
        assert set(outcomes) == {WixUnauthorized}

    # A thread that came late, after the refusal, may ask for itself; those that waited do not.
    assert len(wix.asked) < 8


# -- Keeping and renewing --------------------------------------------------------------------------


@pytest.mark.fact("A3", "A5", "A7")
@pytest.mark.parametrize(
    ("life", "last_moment"), [(LIFE, LIFE - REFRESH_BEFORE_SECONDS), (100, 80), (300, 240)]
)
def test_a_token_is_renewed_before_it_expires(
    wix: Scripted, make: Make, clock: Clock, life: float, last_moment: float
) -> None:
    wix.plan(TOKEN_PATH, token("old", life), token("new"))
    credentials = make()
    credentials.headers(INSTANCE)

    clock.now += last_moment - 1
    assert credentials.headers(INSTANCE) == {"Authorization": "old"}
    clock.now += 1
    assert credentials.headers(INSTANCE) == {"Authorization": "new"}


TRANSIENT: list[Script] = [
    Reply(500),
    Reply(503, b""),
    Reply(429),
    Reply(429, headers={"Retry-After": "60"}),
    Reply(200, b"<html>"),
    Reply(200, {"access_token": 5}),
    Reply(200, {"access_token": "a\nb", "expires_in": 10}),
    Reply(200, {"access_token": "a", "expires_in": 0}),
    Raw([head(100), b"{"]),
    Raw(),
]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_the_old_token_serves_while_renewing_fails(
    wix: Scripted, make: Make, clock: Clock, fault: Script
) -> None:
    wix.plan(TOKEN_PATH, token("old"))
    credentials = make()
    credentials.headers(INSTANCE)
    clock.now += LIFE - REFRESH_BEFORE_SECONDS
    wix.otherwise(TOKEN_PATH, fault)

    assert credentials.headers(INSTANCE) == {"Authorization": "old"}

    asked = len(wix.asked)
    credentials.headers(INSTANCE)
    assert len(wix.asked) == asked, "not asked again with every call"
    wix.otherwise(TOKEN_PATH, token("new"))
    clock.now += REFRESH_AGAIN_SECONDS
    assert credentials.headers(INSTANCE) == {"Authorization": "new"}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_no_token_at_all_is_unavailable(wix: Scripted, make: Make, clock: Clock, fault: Script) -> None:
    wix.plan(TOKEN_PATH, token("old"))
    credentials = make()
    credentials.headers(INSTANCE)
    clock.now += LIFE
    wix.otherwise(TOKEN_PATH, fault)

    with pytest.raises(WixUnavailable):
        credentials.headers(INSTANCE)


def test_a_refused_renewal_is_told_at_once(wix: Scripted, make: Make, clock: Clock) -> None:
    wix.plan(TOKEN_PATH, token("old"), Reply(400, {"error": "invalid_client"}))
    credentials = make()
    credentials.headers(INSTANCE)
    clock.now += LIFE - REFRESH_BEFORE_SECONDS

    with pytest.raises(WixUnauthorized):
        credentials.headers(INSTANCE)


def test_others_use_the_old_token_while_one_thread_renews(wix: Scripted, make: Make, clock: Clock) -> None:
    may_answer = threading.Event()

    def answer_late(_: object) -> Reply:
        may_answer.wait(10)
        return token("new")

    wix.plan(TOKEN_PATH, token("old"), answer_late)
    credentials = make()
    credentials.headers(INSTANCE)
    clock.now += LIFE - REFRESH_BEFORE_SECONDS
    with ThreadPoolExecutor(1) as pool:
        renewed = pool.submit(credentials.headers, INSTANCE)
        wix.wait_for(TOKEN_PATH, 2)

        assert credentials.headers(INSTANCE) == {"Authorization": "old"}

        may_answer.set()
        assert renewed.result() == {"Authorization": "new"}


def test_forgetting_drops_only_the_token_named(wix: Scripted, make: Make) -> None:
    wix.plan(TOKEN_PATH, token("one"), token("two"))
    credentials = make()
    first = credentials.headers(INSTANCE)

    credentials.forget(INSTANCE, first)
    assert credentials.headers(INSTANCE) == {"Authorization": "two"}
    credentials.forget(INSTANCE, first)
    assert credentials.headers(INSTANCE) == {"Authorization": "two"}

    assert len(wix.asked) == 2


# -- Failures --------------------------------------------------------------------------------------


@pytest.mark.fact("A6")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 428])
def test_a_refusal_is_unauthorized_with_the_code_and_without_the_secret(
    wix: Scripted, make: Make, status: int
) -> None:
    said = {"error": "invalid_client", "error_description": f"wrong secret {SECRET}", "message": SECRET}
    wix.otherwise(TOKEN_PATH, Reply(status, said, {"x-wix-request-id": "req-1"}))

    with pytest.raises(WixUnauthorized) as raised:
        make().headers(INSTANCE)

    assert (raised.value.status, raised.value.code, raised.value.request_id) == (
        status,
        "invalid_client",
        "req-1",
    )
    assert "invalid_client" in str(raised.value)
    assert SECRET not in repr(raised.value) + str(raised.value)
    assert raised.value.__cause__ is None
    assert len(wix.asked) == 1, "a refusal is not repeated"


def test_a_code_that_quotes_the_secret_is_not_repeated(wix: Scripted, make: Make) -> None:
    wix.otherwise(TOKEN_PATH, Reply(400, {"error": f"bad.{SECRET}"}))

    with pytest.raises(WixUnauthorized) as raised:
        make().headers(INSTANCE)

    assert raised.value.code is None
    assert SECRET not in str(raised.value)


def test_being_asked_to_wait_is_unavailable_for_that_time(wix: Scripted, make: Make) -> None:
    wix.otherwise(TOKEN_PATH, Reply(429, headers={"Retry-After": "60"}))

    with pytest.raises(WixUnavailable) as raised:
        make().headers(INSTANCE)

    assert raised.value.retry_after_seconds == 60
    assert len(wix.asked) == 1


def test_a_passing_failure_is_tried_again(
    wix: Scripted, make: Make, responses: list[tuple[str, int | None]]
) -> None:
    wix.plan(TOKEN_PATH, Reply(503), Raw([head(10), b"{"]))

    assert make().headers(INSTANCE) == {"Authorization": "token-1"}

    assert [status for _, status in responses] == [503, None, 200]


def test_a_server_that_never_answers_is_unavailable(wix: Scripted, make: Make) -> None:
    wix.otherwise(TOKEN_PATH, HANG)

    with pytest.raises(WixUnavailable, match="create_token"):
        make(timeout_seconds=0.1).headers(INSTANCE)

    assert len(wix.asked) == 3


def test_nobody_listening_is_unavailable(make: Make, responses: list[tuple[str, int | None]]) -> None:
    with deaf_port() as port, pytest.raises(WixUnavailable):
        make(f"http://127.0.0.1:{port}").headers(INSTANCE)

    assert responses == [("create_token", None)] * 3


def test_an_expiry_written_as_text_is_read(wix: Scripted, make: Make) -> None:
    wix.plan(TOKEN_PATH, Reply(body={"access_token": "one", "expires_in": "14400"}))

    assert make().headers(INSTANCE) == {"Authorization": "one"}


def test_neither_secret_nor_token_is_ever_logged(
    wix: Scripted, make: Make, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wix.plan(TOKEN_PATH, token("tell-nobody"))
    credentials = make()
    with structlog.testing.capture_logs() as events:
        credentials.headers(INSTANCE)
        clock.now += LIFE - REFRESH_BEFORE_SECONDS
        wix.otherwise(TOKEN_PATH, Reply(500, {"message": SECRET}))
        credentials.headers(INSTANCE)

    assert [event["event"] for event in events] == ["token_not_refreshed"]
    shown = caplog.text + repr(events) + repr(credentials)
    assert SECRET not in shown
    assert "tell-nobody" not in shown


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_asks_for_itself_even_while_the_parent_is_asking(wix: Scripted, make: Make) -> None:
    may_answer = threading.Event()

    def answer_late(_: object) -> Reply:
        may_answer.wait(10)
        return token("parent")

    wix.plan(TOKEN_PATH, answer_late, token("child"))
    credentials = make()
    with ThreadPoolExecutor(1) as pool:
        of_parent = pool.submit(credentials.headers, INSTANCE)
        wix.wait_for(TOKEN_PATH)

        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs dies of it
            status = 1
            try:
                status = 0 if credentials.headers(INSTANCE) == {"Authorization": "child"} else 2
            finally:
                os._exit(status)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        may_answer.set()
        assert of_parent.result() == {"Authorization": "parent"}


# -- API keys --------------------------------------------------------------------------------------


@pytest.mark.fact("A12", "A13", "A15")
def test_an_api_key_is_sent_with_its_site_and_cannot_be_forgotten() -> None:
    credentials: Credentials = ApiKeyCredentials(api_key=SECRET, site_id="site-1", instance_id=INSTANCE)

    headers = credentials.headers(INSTANCE)
    credentials.forget(INSTANCE, headers)

    assert credentials.headers(INSTANCE) == headers == {"Authorization": SECRET, "wix-site-id": "site-1"}
    assert SECRET not in repr(credentials)
    credentials.close()


def test_an_api_key_vouches_for_its_own_instance_alone() -> None:
    credentials = ApiKeyCredentials(api_key=SECRET, site_id="site-1", instance_id=INSTANCE)

    with pytest.raises(WixUnauthorized, match=str(OTHER)):
        credentials.headers(OTHER)


@pytest.mark.parametrize("key", ["", "two\nlines", "ключ", " padded", "tab\t"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match="WIX_API_KEY") as raised:
        ApiKeyCredentials(api_key=key, site_id="site-1", instance_id=INSTANCE)

    assert not key or key not in str(raised.value)
