"""The outgoing webhook: signed as Standard Webhooks says, and every answer sorted by what follows."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from standardwebhooks.webhooks import Webhook as Independent
from standardwebhooks.webhooks import WebhookVerificationError

from processor.channels.webhook import Webhook, body_of, signature
from processor.config import signing_keys
from processor.errors import NotDelivered
from processor.processes import free_port
from tests.receivers import WHSEC, Hook, a_hook

ID = UUID("3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162")
DOCUMENT = {"type": "alerts.test", "timestamp": "2026-11-24T12:00:00.000Z", "data": {"title": "Größe"}}
OTHER = "whsec_" + base64.b64encode(b"another key of thirty-two bytes!").decode()


@pytest.fixture
def hook() -> Iterator[Hook]:
    with a_hook() as running:
        yield running


def send(url: str, secret: str = WHSEC, seconds: float = 5.0) -> None:
    webhook = Webhook(url=url, keys=signing_keys(secret), seconds_max=seconds)
    try:
        webhook.send(ID, DOCUMENT, datetime.now(UTC))
    finally:
        webhook.close()


def refusal(url: str, seconds: float = 5.0) -> NotDelivered:
    with pytest.raises(NotDelivered) as caught:
        send(url, seconds=seconds)
    assert "hidden" not in str(caught.value)
    return caught.value


def test_the_signature_is_that_of_the_published_example() -> None:
    # The example of the specification's reference implementations.
    signed = signature(
        signing_keys(WHSEC), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )

    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_independent_implementation_takes_what_is_sent(hook: Hook) -> None:
    send(hook.url)

    assert hook.messages() == [DOCUMENT]
    [(headers, body)] = hook.got
    assert headers["webhook-id"] == str(ID)
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == DOCUMENT


def test_a_changed_body_or_another_key_is_noticed(hook: Hook) -> None:
    send(hook.url)
    [(headers, body)] = hook.got

    with pytest.raises(WebhookVerificationError):
        Independent(WHSEC).verify(body.decode().replace("test", "text"), headers)
    with pytest.raises(WebhookVerificationError):
        Independent(OTHER).verify(body.decode(), headers)


def test_while_keys_change_each_of_them_will_do(hook: Hook) -> None:
    send(hook.url, f"{WHSEC} {OTHER}")

    assert hook.messages(WHSEC) == hook.messages(OTHER) == [DOCUMENT]


def test_a_document_has_the_same_bytes_at_every_attempt() -> None:
    assert body_of({"b": 1, "a": {"d": 2, "c": 3}}) == body_of({"a": {"c": 3, "d": 2}, "b": 1})


@pytest.mark.parametrize(
    ("status", "is_final", "is_of_message"),
    [
        (410, True, False),
        (400, False, True),
        (422, False, True),
        (413, False, True),
        (401, False, False),
        (404, False, False),
        (429, False, False),
        (500, False, False),
        (503, False, False),
    ],
)
def test_each_answer_says_what_follows(hook: Hook, status: int, is_final: bool, is_of_message: bool) -> None:
    hook.answers = [(status, {"retry-after": "120"})]

    why = refusal(hook.url)

    assert (why.is_final, why.is_of_message) == (is_final, is_of_message)
    assert str(status) in str(why)
    if status in (429, 503):
        assert why.retry_after_seconds == 120


def test_redirects_are_not_followed(hook: Hook) -> None:
    hook.answers = [(302, {"location": hook.url})]

    assert "not followed" in str(refusal(hook.url))
    assert len(hook.got) == 1


def test_nobody_there_is_said_without_the_address() -> None:
    why = refusal(f"http://127.0.0.1:{free_port()}/hidden")

    assert "no connection" in str(why)
    assert not why.is_final


def test_a_receiver_that_drips_is_let_go_of_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.1):
                    try:
                        connection.sendall(b"x-more: 1\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        why = refusal(f"http://127.0.0.1:{listener.getsockname()[1]}/", seconds=1)
        took = time.monotonic() - began
        stop.set()
        thread.join()

    assert "did not answer within 1 s" in str(why)
    assert took < 5
