"""Every exception of ours, sorted by what the caller does next.

ProcessorError
  ConfigurationError   stop: an operator must change a setting
  StoreUnavailable     answer 503 or end the job: the database did not answer
  Unreadable           keep it, with its reason: no retry can help
  Rejected             answer 401: this delivery was not signed by Wix
  CreationConflict     do not try again: the reference stands for another link
  CreationUnclear      ask again later: the link may have been made
  NotDelivered         send it again later, unless it says that this is of no use
  NotAllowed           do something else: the rules of the books forbid it, and the message says what they allow
  WixError
    WixUnavailable     try again later: Wix did not answer, or asked us to wait
    WixUnauthorized    stop for this instance: credentials or permission
    WixRefused         do not try again: the request itself is wrong
    WixNotFound        a WixRefused: the thing does not exist
"""

from __future__ import annotations

from dataclasses import dataclass


class ProcessorError(Exception):
    """Base of every error this service raises on purpose. The message is one clear sentence."""


class ConfigurationError(ProcessorError):
    """A setting or the environment is wrong; the message says what to change."""


class StoreUnavailable(ProcessorError):
    """The database did not answer in time. Nothing was half-stored; the same call may be repeated."""


class Unreadable(ProcessorError):
    """An authentic delivery, or an item Wix listed, that we cannot understand.

    `reason` is a stable code (a member of `processor.wix.parse.Reason`); `detail` says where, never
    with the value itself, which may be personal.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Rejected(ProcessorError):
    """A delivery whose signature does not prove that Wix sent it. `reason` is a stable code."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class CreationConflict(ProcessorError):
    """A reference was used for another link before, or is in use for one. Choose a new one."""


class CreationUnclear(ProcessorError):
    """Whether a link was created is not known yet: no answer came, or another process is at it.

    The same call with the same reference, from `retry_after_seconds` on, finds it or makes it.
    """

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotAllowed(ProcessorError):
    """What a person asked for is against the rules of the books. The message says what is allowed instead."""


class NotDelivered(ProcessorError):
    """A channel did not take a message. The message says why, without any secret or address.

    is_final: it will never be taken. is_of_message: the receiver is there and refused this message, so others may be
    taken. retry_after_seconds: what the receiver asked for, None when it named no time.
    """

    def __init__(
        self,
        message: str,
        *,
        is_final: bool = False,
        is_of_message: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.is_final = is_final
        self.is_of_message = is_of_message
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One line of Wix's `details.validationError.fieldViolations` (Wix docs, "Errors")."""

    field: str
    description: str
    violated_rule: str


class WixError(ProcessorError):
    """Wix answered with an error, or not at all.

    status: HTTP status, None when no answer came. code: `details.applicationError.code`, None when
    the answer had none. request_id: `x-wix-request-id`, None when absent.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        violations: tuple[FieldViolation, ...] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.violations = violations
        self.request_id = request_id


class WixUnavailable(WixError):
    """Wix did not answer, answered 5xx or garbage, or asked us to wait. Try again later.

    retry_after_seconds: what Wix asked for, None when it named no time. is_unsent: Wix certainly did nothing,
    since it never got the request or refused to look at it.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        is_unsent: bool = False,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code, request_id=request_id)
        self.retry_after_seconds = retry_after_seconds
        self.is_unsent = is_unsent


class WixUnauthorized(WixError):
    """401 or 403, or a token refused: credentials, permission or a removed app. An operator must act."""


class WixRefused(WixError):
    """A 4xx that repeating cannot cure: invalid argument, failed precondition, conflict."""


class WixNotFound(WixRefused):
    """404: the thing asked for does not exist (any more)."""
