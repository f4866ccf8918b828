"""Mail over a real server: what is in it, that it is encrypted, and what follows from each refusal."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from processor.channels.mail import Mail
from processor.domain.alert import AlertKind
from processor.domain.message import Counted, Told, about_alert, about_group, about_nothing, about_period
from processor.errors import NotDelivered
from processor.processes import free_port
from tests.builders import INSTANCE, LINK, NOW, PAYMENT
from tests.receivers import a_post, certificate

ID = UUID("afb2f6c0-e497-4c69-9ddb-be8c82351456")
TO = ("finance@example.com", "ops@example.com")
OPENED = Told(
    alert_id=UUID(int=1),
    kind=AlertKind.DISCREPANCY_OPENED,
    severity="error",
    instance_id=INSTANCE,
    subject=str(UUID(int=2)),
    at=NOW,
    document={
        "discrepancy_id": str(UUID(int=2)),
        "type": "amount_differs",
        "state": "open",
        "payment_link_id": str(LINK),
        "payment_id": str(PAYMENT),
        "amount_at_risk": "12.5",
        "currency": "USD",
        "sides": {"booked": "10.00", "wix": "22.50"},
        "reason": None,
    },
)


def send(port: int, document: Any, *, user: str = "", scheme: str = "smtp") -> None:
    mail = Mail(
        url=f"{scheme}://{user}127.0.0.1:{port}", sender="processor@example.com", recipients=TO, seconds_max=5
    )
    mail.send(ID, document, NOW)


def sent(document: Any) -> EmailMessage:
    with a_post() as post:
        send(post.port, document)
    [(recipients, mail)] = post.got
    assert recipients == list(TO)
    return mail


def refusal(port: int, **more: Any) -> NotDelivered:
    with pytest.raises(NotDelivered) as caught:
        send(port, about_nothing(NOW), **more)
    assert "example.com" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    return caught.value


def test_a_mail_says_in_words_of_finance_what_it_is_about_and_what_to_do() -> None:
    mail = sent(about_alert(OPENED))

    assert mail["Subject"] == "Discrepancy opened: amount_differs, 12.50 USD at risk"
    assert (mail["From"], mail["To"]) == ("processor@example.com", ", ".join(TO))
    assert mail["Message-ID"] == f"<{ID}@example.com>"
    assert mail["Auto-Submitted"] == "auto-generated"
    content = mail.get_content()
    for words in (
        "Wix lists another amount than the one booked",
        "Compare both with the buyer's receipt.",
        str(LINK),
        str(PAYMENT),
        "12.50 USD",
        "Wix says:             22.50",
        f"processor discrepancies show {UUID(int=2)}",
    ):
        assert words in content


def test_a_group_has_counts_and_the_first_few() -> None:
    counted = Counted(
        what="discrepancy_opened",
        instance_id=INSTANCE,
        number=9_990,
        severity="error",
        type="amount_differs",
        currency="USD",
        amount=Decimal(100_000),
    )

    mail = sent(about_group(10_000, [counted] * 51, [OPENED] * 10, now=NOW))

    assert mail["Subject"] == "10000 alerts"
    content = mail.get_content()
    assert content.count("9990 discrepancy opened: amount_differs (error), 100000.00 USD at risk") == 50
    assert "- and more" in content
    assert content.count("processor discrepancies show") == 10


def test_a_digest_says_what_is_open_what_changed_and_what_else_happened() -> None:
    document = about_period(
        NOW.replace(day=23),
        NOW,
        open_now=[
            Counted(
                what="open",
                instance_id=INSTANCE,
                number=1,
                severity="error",
                type="amount_differs",
                currency="USD",
                amount=Decimal("12.5"),
                since=NOW.replace(day=20),
            )
        ],
        changes=[Counted(what="opened_and_closed", instance_id=INSTANCE, number=3, type="total_differs")],
        others=[Counted(what="webhooks_silent", instance_id=INSTANCE, number=1, severity="error")],
        now=NOW,
    )

    mail = sent(document)

    assert mail["Subject"] == "Digest: 1 open discrepancy"
    content = mail.get_content()
    assert "From 2026-11-23 12:00 UTC to 2026-11-24 12:00 UTC." in content
    assert "1 open: amount_differs (error), 12.50 USD at risk, oldest 4 to 7 days" in content
    assert "3 opened and closed: total_differs" in content
    assert "1 webhooks silent (error)" in content


def test_there_is_no_digest_of_nothing() -> None:
    assert about_period(NOW, NOW, open_now=[], changes=[], others=[], now=NOW) is None


def test_nothing_that_is_told_can_become_a_header() -> None:
    evil = "amount_differs\r\nBcc: thief@example.com\r\n\r\nhello\x1b[2J"
    document = about_alert(
        Told(
            alert_id=UUID(int=1),
            kind=AlertKind.DISCREPANCY_OPENED,
            severity="error",
            instance_id=INSTANCE,
            subject="x",
            at=NOW,
            document={"type": evil, "discrepancy_id": evil, "sides": {evil: evil}},
        )
    )

    with a_post() as post:
        send(post.port, document)

    [(recipients, mail)] = post.got
    assert recipients == list(TO)
    assert mail["Bcc"] is None
    assert "\x1b" not in mail.get_content()
    assert "Discrepancy opened: amount_differs  Bcc: thief@example.com" in mail["Subject"]


def test_starttls_and_the_password_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))

    with a_post(tls=context, password="hidden/word") as post:
        send(post.port, about_nothing(NOW), user="shop:hidden%2Fword@")
        why = refusal(post.port, user="shop:hidden@")

    assert len(post.got) == 1
    assert "refuses our password: 535" in str(why)


def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    context, _ = certificate(tmp_path)

    with a_post(tls=context) as post:
        why = refusal(post.port)

    assert "certificate is not trusted" in str(why)
    assert post.got == []


def test_nothing_leaves_this_machine_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    # A server elsewhere that offers no TLS, as far as the channel can see.
    monkeypatch.setattr("processor.channels.mail.LOOPBACK", ())

    with a_post() as post:
        why = refusal(post.port, user="shop:hidden@")

    assert "offers no STARTTLS" in str(why)
    assert post.got == []


def test_each_refusal_says_what_follows() -> None:
    with a_post() as post:
        post.data_answer = "554 not this one"
        of_message = refusal(post.port)
        post.data_answer = "451 later"
        later = refusal(post.port)
        post.refused = set(TO)
        nobody = refusal(post.port)

    assert (of_message.is_of_message, later.is_of_message) == (True, False)
    assert "refuses every recipient: 550" in str(nobody)
    assert "no connection" in str(refusal(free_port()))
    assert not any(one.is_final for one in (of_message, later, nobody))


def test_a_recipient_that_is_refused_costs_the_others_nothing() -> None:
    with a_post() as post, capture_logs() as logs:
        post.refused = {TO[0]}
        send(post.port, about_nothing(datetime.now(UTC)))

    assert [recipients for recipients, _ in post.got] == [[TO[1]]]
    assert [line["event"] for line in logs] == ["mail_recipients_refused"]
    assert "example.com" not in str(logs)


def test_an_alert_of_a_newer_release_is_told_in_its_own_words() -> None:
    document = about_alert(
        Told(
            alert_id=UUID(int=1),
            kind="books_on_fire",
            severity="error",
            instance_id=INSTANCE,
            subject="x",
            at=NOW,
            document={"type": "unheard_of", "since": "noon"},
        )
    )

    mail = sent(document)

    assert (document["type"], mail["Subject"]) == ("books_on_fire", "Books on fire: unheard_of")
    assert "Books on fire" in mail.get_content()
