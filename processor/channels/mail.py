"""Mail, in plain text, over SMTP with TLS. A mail may come twice, with the same Message-ID."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import structlog

from processor.config import LOOPBACK
from processor.domain.message import as_mail
from processor.errors import NotDelivered

log = structlog.get_logger(__name__)

SECONDS_MAX = 15.0  # for each answer of the server
PORT, PORT_TLS = 587, 465


class Mail:
    """Sends messages by one mail server, over a connection for each: there are few.

    What leaves this machine does so over TLS: from the start for smtps, by STARTTLS for smtp, and not at all without.
    """

    def __init__(
        self, *, url: str, sender: str, recipients: Sequence[str], seconds_max: float = SECONDS_MAX
    ) -> None:
        """url: as `config.smtp_url` takes it. seconds_max: for each answer of the server."""
        parts = urlsplit(url)
        self._host = str(parts.hostname)
        self._is_tls = parts.scheme == "smtps"
        self._port = parts.port or (PORT_TLS if self._is_tls else PORT)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._sender = sender
        self._recipients = tuple(recipients)
        self._seconds_max = seconds_max

    def send(self, delivery_id: UUID, document: Mapping[str, Any], now: datetime) -> None:
        """Send a message to every recipient. Raises NotDelivered unless the server took it for one at least."""
        mail = self._mail(delivery_id, document, now)
        try:
            server = self._connected()
            try:
                refused = server.send_message(mail, self._sender, self._recipients)
            finally:
                # A mail that was taken is taken, however the server says good-bye.
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    server.quit()
                server.close()
        except smtplib.SMTPRecipientsRefused as why:
            codes = sorted({code for code, _ in why.recipients.values()})
            raise NotDelivered(f"the mail server refuses every recipient: {_listed(codes)}") from None
        except smtplib.SMTPDataError as why:
            raise NotDelivered(
                f"the mail server answered {why.smtp_code} to the mail", is_of_message=why.smtp_code >= 500
            ) from None
        except smtplib.SMTPAuthenticationError as why:
            raise NotDelivered(f"the mail server refuses our password: {why.smtp_code}") from None
        except smtplib.SMTPResponseException as why:
            # Not its words: they may repeat an address.
            raise NotDelivered(f"the mail server answered {why.smtp_code}") from None
        except smtplib.SMTPException as why:
            raise NotDelivered(f"the mail server could not be talked to: {type(why).__name__}") from None
        except ssl.SSLCertVerificationError as why:
            raise NotDelivered(
                f"the mail server's certificate is not trusted: {why.verify_message}"
            ) from None
        except OSError as why:
            raise NotDelivered(
                f"no connection to the mail server: {why.strerror or type(why).__name__}"
            ) from None
        if refused:
            codes = sorted({code for code, _ in refused.values()})
            log.warning(
                "mail_recipients_refused",
                delivery_id=str(delivery_id),
                recipients=len(refused),
                why=_listed(codes),
            )

    def close(self) -> None:
        """Nothing is held."""

    def _connected(self) -> smtplib.SMTP:
        # The name we give ourselves: the machine's own would be looked up, and says nothing.
        name = self._sender.rpartition("@")[2]
        if self._is_tls:
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host,
                self._port,
                local_hostname=name,
                timeout=self._seconds_max,
                context=ssl.create_default_context(),
            )
        else:
            server = smtplib.SMTP(self._host, self._port, local_hostname=name, timeout=self._seconds_max)
        try:
            if not self._is_tls:
                server.ehlo_or_helo_if_needed()
                if server.has_extn("starttls"):
                    server.starttls(context=ssl.create_default_context())
                elif self._host not in LOOPBACK:
                    raise NotDelivered("the mail server offers no STARTTLS: alerts are not sent in the clear")
            if self._user:
                server.login(self._user, self._password)
        except BaseException:
            server.close()
            raise
        return server

    def _mail(self, delivery_id: UUID, document: Mapping[str, Any], now: datetime) -> EmailMessage:
        subject, content = as_mail(document)
        mail = EmailMessage(policy=SMTP)
        mail["From"] = self._sender
        mail["To"] = ", ".join(self._recipients)
        mail["Subject"] = subject
        mail["Date"] = format_datetime(now)
        mail["Message-ID"] = f"<{delivery_id}@{self._sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"  # nobody is out of office for it
        mail.set_content(content)
        return mail


def _listed(codes: Sequence[int]) -> str:
    return ", ".join(map(str, codes))
