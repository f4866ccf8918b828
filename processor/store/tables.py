"""Every table, with its named constraints. PostgreSQL 15 or later.

Every table that holds a site's data is keyed by app instance (one app on one site). Times are aware and
in UTC. Money is NUMERIC(19, 3) with its currency beside it. The migrations are the authority for a
database; a test compares these models with a migrated catalogue.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    any_,
    literal,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from processor.domain.access import Role
from processor.domain.alert import AlertKind, Channel, DeliveryKind
from processor.domain.discrepancy import Reason, Severity, StepKind
from processor.domain.reconciliation import Recovery
from processor.domain.refund import EVENT_TYPES

NAMING = {
    "pk": "pk_%(table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(referred_table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
NOW = text("now()")
ZERO = text("0")
ONE = text("1")


class Base(DeclarativeBase):
    """Registry of all models."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        str: Text(),
        UUID: Uuid(),
        bytes: LargeBinary(),
        Decimal: Numeric(19, 3),
        dict[str, Any]: JSONB(none_as_null=True),
    }


def is_any_of(column: Any, ids: Collection[UUID]) -> ColumnElement[bool]:
    """Whether `column` is one of `ids`, however many: they are one parameter, of which a statement has 65,535."""
    return column == any_(literal(list(ids), ARRAY(Uuid())))  # type: ignore[no-any-return]  # column is Any


def one_of(column: str, *values: str) -> str:
    """SQL that holds when `column` is one of `values`."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class AppInstance(Base):
    """One installation of the app on one site.

    status follows from the dates: `unconfirmed` until Wix said AppInstalled or gave us a token for it,
    `removed` from AppRemoved until a later installation. Events of an unconfirmed instance are held. backfilled_at:
    when the backfill of what was before its installation was asked for.
    """

    __tablename__ = "app_instances"

    instance_id: Mapped[UUID] = mapped_column(primary_key=True)
    app_id: Mapped[str | None]
    site_id: Mapped[UUID | None]
    account_id: Mapped[UUID | None]
    origin_instance_id: Mapped[UUID | None]
    first_seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
    installed_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]
    checks_enqueued_at: Mapped[datetime | None]
    backfilled_at: Mapped[datetime | None]
    status: Mapped[str] = mapped_column(
        Computed(
            "CASE WHEN removed_at IS NOT NULL"
            " AND removed_at >= COALESCE(GREATEST(installed_at, confirmed_at), removed_at) THEN 'removed'"
            " WHEN installed_at IS NOT NULL OR confirmed_at IS NOT NULL THEN 'installed'"
            " ELSE 'unconfirmed' END",
            persisted=True,
        )
    )


class WebhookEvent(Base):
    """Inbox and evidence: one row for each event Wix told us of, however often it was delivered.

    The signed body as first received is in `webhook_event_tokens`, until it is erased or its month archived; its
    digest stays. token: the same in rows made before migration 0005.
    """

    __tablename__ = "webhook_events"

    # The key begins with the event: see migration 0008.
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    # No foreign key: it would lock the one row of the instance for every event of its site.
    instance_id: Mapped[UUID] = mapped_column(primary_key=True)
    event_type: Mapped[str]
    kind: Mapped[str]
    slug: Mapped[str | None]
    entity_id: Mapped[UUID | None]
    entity_sequence: Mapped[int | None] = mapped_column(BigInteger)
    payment_link_id: Mapped[UUID | None]
    occurred_at: Mapped[datetime | None]
    issued_at: Mapped[datetime | None]
    received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    delivery_count: Mapped[int] = mapped_column(BigInteger, server_default=ONE)
    conflict_count: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    status: Mapped[str]
    reason: Mapped[str | None]
    reason_detail: Mapped[str | None]
    is_anonymization: Mapped[bool]
    content_digest: Mapped[bytes]
    token_digest: Mapped[bytes]
    token: Mapped[str | None]
    erased_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("kind", "payment", "link", "app_installed", "app_removed", "other"), "kind"),
        CheckConstraint(one_of("status", "recorded", "held", "ignored", "unreadable"), "status"),
        CheckConstraint("(status = 'unreadable') = (reason IS NOT NULL)", "reason_when_unreadable"),
        CheckConstraint("token IS NULL OR erased_at IS NULL", "token_until_erased"),
        CheckConstraint("octet_length(content_digest) = 32", "content_digest_is_sha256"),
        CheckConstraint("octet_length(token_digest) = 32", "token_digest_is_sha256"),
        CheckConstraint("delivery_count > 0", "delivery_count_positive"),
        CheckConstraint("conflict_count BETWEEN 0 AND delivery_count", "conflict_count_possible"),
        CheckConstraint("last_received_at >= received_at", "last_received_after_first"),
        Index("ix_webhook_events_entity", "instance_id", "entity_id"),
        Index("ix_webhook_events_received", "instance_id", "received_at"),
        Index("ix_webhook_events_held", "instance_id", postgresql_where=text("status = 'held'")),
        Index(
            "ix_webhook_events_unreadable",
            "instance_id",
            "received_at",
            "event_id",
            postgresql_where=text("status = 'unreadable'"),
        ),
        Index(
            "ix_webhook_events_conflicts",
            "instance_id",
            "payment_link_id",
            postgresql_where=text("conflict_count > 0"),
        ),
        # Events about refunds that were stored as they came and wait to be read (`store.refunds`).
        Index(
            "ix_webhook_events_unread_refunds",
            "instance_id",
            "received_at",
            postgresql_where=text(f"status = 'ignored' AND {one_of('event_type', *EVENT_TYPES)}"),
        ),
    )


webhook_event_tokens = Table(
    "webhook_event_tokens",
    Base.metadata,
    Column("instance_id", Uuid(), nullable=False),
    Column("event_id", Uuid(), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("token", Text(), nullable=False),
    Index(
        "ix_webhook_event_tokens_received",
        "received_at",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
    postgresql_partition_by="RANGE (received_at)",
)
"""Evidence: the signed body of each event as first received, by month (`store.evidence`).

It has no key: a row is found by the `received_at` of its event, and there are as many as the statement that stores
events makes, one for each. Rows are deleted when their event is erased, by a trigger.
"""


class TokenArchive(Base):
    """A month of tokens that was written to a file and detached. partition: the table it was, and is until dropped.

    file_digest: SHA-256 of the file. event_count: tokens in it. An erasure reaches the detached table while it is
    there, and never the file.
    """

    __tablename__ = "token_archives"

    month: Mapped[date]
    partition: Mapped[str] = mapped_column(primary_key=True)
    file_name: Mapped[str]
    file_digest: Mapped[bytes]
    event_count: Mapped[int] = mapped_column(BigInteger)
    archived_at: Mapped[datetime] = mapped_column(primary_key=True)

    __table_args__ = (
        CheckConstraint("event_count >= 0", "event_count_not_negative"),
        CheckConstraint("octet_length(file_digest) = 32", "file_digest_is_sha256"),
    )


class WebhookEventConflict(Base):
    """Another body that came under an event id already stored."""

    __tablename__ = "webhook_event_conflicts"

    instance_id: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    content_digest: Mapped[bytes] = mapped_column(primary_key=True)
    token_digest: Mapped[bytes]
    token: Mapped[str | None]
    received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    delivery_count: Mapped[int] = mapped_column(BigInteger, server_default=ONE)
    erased_at: Mapped[datetime | None]

    __table_args__ = (
        ForeignKeyConstraint(
            ["instance_id", "event_id"], ["webhook_events.instance_id", "webhook_events.event_id"]
        ),
        CheckConstraint("(token IS NULL) = (erased_at IS NOT NULL)", "token_until_erased"),
        CheckConstraint("octet_length(content_digest) = 32", "content_digest_is_sha256"),
        CheckConstraint("delivery_count > 0", "delivery_count_positive"),
    )


class UnreadDelivery(Base):
    """An authentic delivery whose instance cannot be read, kept whole with the reason."""

    __tablename__ = "unread_deliveries"

    token_digest: Mapped[bytes] = mapped_column(primary_key=True)
    reason: Mapped[str]
    reason_detail: Mapped[str | None]
    token: Mapped[str]
    received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    delivery_count: Mapped[int] = mapped_column(BigInteger, server_default=ONE)

    __table_args__ = (
        CheckConstraint("octet_length(token_digest) = 32", "token_digest_is_sha256"),
        CheckConstraint("delivery_count > 0", "delivery_count_positive"),
        Index("ix_unread_deliveries_received", "received_at"),
    )


class RejectedDelivery(Base):
    """A sample of what was refused as not signed by Wix: digest and reason only. Capped in rows."""

    __tablename__ = "rejected_deliveries"

    body_digest: Mapped[bytes] = mapped_column(primary_key=True)
    reason: Mapped[str]
    received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    delivery_count: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint("octet_length(body_digest) = 32", "body_digest_is_sha256"),
        CheckConstraint("delivery_count > 0", "delivery_count_positive"),
        Index("ix_rejected_deliveries_last_received", "last_received_at"),
    )


class RejectionCount(Base):
    """How many deliveries were refused, per UTC day and reason. Not capped."""

    __tablename__ = "rejection_counts"

    day: Mapped[date] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    delivery_count: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (CheckConstraint("delivery_count > 0", "delivery_count_positive"),)


class _Facts:
    """The facts of a payment, in the order of `domain.payment.FACTS`, and what has no column."""

    payment_link_id: Mapped[UUID]
    amount: Mapped[Decimal]
    currency: Mapped[str]
    type: Mapped[str | None]
    created_at: Mapped[datetime | None]
    transaction_at: Mapped[datetime | None]
    receipt_id: Mapped[UUID | None]
    ecom_checkout_id: Mapped[str | None]
    ecom_order_id: Mapped[str | None]
    method: Mapped[str | None]
    payment_method: Mapped[str | None]
    payment_provider: Mapped[str | None]
    rest: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class PaymentRow(_Facts, Base):
    """A payment as we believe it: the highest revision we were told of.

    first_origin: who told us first; `poll` means its webhook was missed or late. event_id, run_id: what
    the current version came from, one of the two. last_verdict, last_told_at: of the last version we were
    told of, applied or not. match_state: how it stood at its last check, NULL before the first.
    erased_at: personal data was erased, and stays out. recovery: why a check had to book it or move it forward
    (`domain.reconciliation.Recovery`), NULL when none had to.
    """

    __tablename__ = "payments"

    instance_id: Mapped[UUID] = mapped_column(primary_key=True)  # no foreign key: see WebhookEvent
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    first_origin: Mapped[str]
    origin: Mapped[str]
    event_id: Mapped[UUID | None]
    run_id: Mapped[UUID | None]
    stored_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    last_verdict: Mapped[str]
    last_told_at: Mapped[datetime]
    match_state: Mapped[str | None]
    matched_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]
    recovery: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("revision >= 0", "revision_not_negative"),
        CheckConstraint("amount >= 0", "amount_not_negative"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", "currency_is_a_code"),
        CheckConstraint(one_of("first_origin", "webhook", "poll", "replay"), "first_origin"),
        CheckConstraint(one_of("origin", "webhook", "poll", "replay"), "origin"),
        CheckConstraint(one_of("last_verdict", "new", "newer", "same", "stale", "conflict"), "last_verdict"),
        CheckConstraint(
            one_of("match_state", "matched", "expected", "recovered", "discrepant"), "match_state"
        ),
        CheckConstraint("num_nonnulls(event_id, run_id) = 1", "one_source"),
        CheckConstraint("changed_at >= stored_at", "changed_after_stored"),
        CheckConstraint(one_of("recovery", *Recovery), "recovery"),
        # Only the primary key begins with the instance, for whoever does not ask for this index's expression or for
        # this predicate: see migrations 0004 and 0020.
        Index("ix_payments_by_creation", "created_at", "instance_id"),
        Index("ix_payments_of_instance", text("uuid_send(instance_id)"), "created_at", "payment_id"),
        Index("ix_payments_of_link_created", "payment_link_id", "created_at", "instance_id"),
        Index(
            "ix_payments_recovered",
            "recovery",
            "created_at",
            "instance_id",
            postgresql_where=text("recovery IS NOT NULL"),
        ),
        # In which the list is read by amount: see migration 0026.
        Index("ix_payments_by_amount", "currency", "amount", "created_at"),
        # What reports of days are read by: see migration 0024.
        Index("ix_payments_reported", text("COALESCE(transaction_at, created_at, stored_at)")),
        Index("ix_payments_polled", "stored_at", postgresql_where=text("first_origin = 'poll'")),
        Index(
            "ix_payments_undated",
            "instance_id",
            "payment_id",
            postgresql_where=text("created_at IS NULL"),
        ),
    )


class PaymentVersion(_Facts, Base):
    """Every telling of a payment that was told more than once: by events, checks or replays.

    The first telling is the payment itself until there is a second; then a trigger writes it down here. The view
    `payment_tellings` shows every telling of every payment.
    """

    __tablename__ = "payment_versions"

    version_id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    instance_id: Mapped[UUID]
    payment_id: Mapped[UUID]
    revision: Mapped[int] = mapped_column(BigInteger)
    verdict: Mapped[str]
    origin: Mapped[str]
    event_id: Mapped[UUID | None]
    run_id: Mapped[UUID | None]
    told_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("revision >= 0", "revision_not_negative"),
        CheckConstraint("amount >= 0", "amount_not_negative"),
        CheckConstraint(one_of("verdict", "new", "newer", "same", "stale", "conflict"), "verdict"),
        CheckConstraint(one_of("origin", "webhook", "poll", "replay"), "origin"),
        CheckConstraint("num_nonnulls(event_id, run_id) = 1", "one_source"),
        Index("ix_payment_versions_payment", "instance_id", "payment_id", "revision"),
        Index(
            "ix_payment_versions_polled",
            "told_at",
            postgresql_where=text("origin = 'poll' AND verdict = 'newer'"),
        ),
        # An event is applied at most once, whoever applies it.
        Index(
            "uq_payment_versions_event",
            "instance_id",
            "event_id",
            unique=True,
            postgresql_where=text("event_id IS NOT NULL AND origin = 'webhook'"),
        ),
    )


class PaymentBuyer(Base):
    """What a payment says about a person, apart from the money so that it can be erased.

    personal: contact, address, card and gift card blocks by Wix's names; NULL once erased.
    """

    __tablename__ = "payment_buyers"

    instance_id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    personal: Mapped[dict[str, Any] | None]
    stored_at: Mapped[datetime]
    erased_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("(personal IS NULL) = (erased_at IS NOT NULL)", "personal_until_erased"),
    )


class PaymentLinkRow(Base):
    """A payment link as Wix last described it. missing_since: Wix no longer knows it.

    inactive_since: when it was first seen deactivated, NULL unless it still is. previous_status: that Wix gave before
    the one it gives now, status_changed_at: when the present one was first seen, both NULL while there was no other.
    """

    __tablename__ = "payment_links"

    instance_id: Mapped[UUID] = mapped_column(ForeignKey("app_instances.instance_id"), primary_key=True)
    payment_link_id: Mapped[UUID] = mapped_column(primary_key=True)
    revision: Mapped[int | None] = mapped_column(BigInteger)
    title: Mapped[str | None]
    currency: Mapped[str | None]
    type: Mapped[str | None]
    status: Mapped[str | None]
    payments_limit: Mapped[int | None] = mapped_column(BigInteger)
    payment_count: Mapped[int | None] = mapped_column(BigInteger)
    total_amount: Mapped[Decimal | None]
    last_payment_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime | None]
    share_url: Mapped[str | None]
    ecom_order_id: Mapped[str | None]
    order_amount: Mapped[Decimal | None]
    rest: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    seen_at: Mapped[datetime]
    missing_since: Mapped[datetime | None]
    inactive_since: Mapped[datetime | None]
    previous_status: Mapped[str | None]
    status_changed_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("currency ~ '^[A-Z]{3}$'", "currency_is_a_code"),
        Index("ix_payment_links_created", "instance_id", "created_at"),
    )


class RefundRow(Base):
    """A refund of a payment, as the latest event about it told. The payment may not be booked (yet).

    amount: NULL when what Wix said cannot be booked; reason says why. status: in Wix's word; only SUCCEEDED gave money
    back. sequence, occurred_at: of the event, which decide which is the latest. told_at: when it was read here.
    """

    __tablename__ = "refunds"

    instance_id: Mapped[UUID] = mapped_column(primary_key=True)
    refund_id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_id: Mapped[UUID]
    amount: Mapped[Decimal | None]
    currency: Mapped[str | None]
    status: Mapped[str | None]
    reason: Mapped[str | None]
    sequence: Mapped[int | None] = mapped_column(BigInteger)
    occurred_at: Mapped[datetime]
    event_id: Mapped[UUID]
    told_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("amount >= 0", "amount_not_negative"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", "currency_is_a_code"),
        CheckConstraint("(amount IS NULL) = (reason IS NOT NULL)", "reason_without_amount"),
        CheckConstraint("amount IS NULL OR currency IS NOT NULL", "amount_has_currency"),
        Index("ix_refunds_payment", "instance_id", "payment_id"),
    )


class CheckRequest(Base):
    """Outbox: "this link's books may have moved". Append-only; drained into `link_checks`."""

    __tablename__ = "check_requests"

    request_id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    instance_id: Mapped[UUID]
    payment_link_id: Mapped[UUID]
    requested_at: Mapped[datetime]


class LinkCheck(Base):
    """When a link is checked next, and who is at it.

    wanted, checked: generations; a request raises `wanted`, a finished check writes `checked` = the
    generation it read, so a request that lands mid-check leaves the link due. due_at: NULL when nothing
    is due. lease_id, lease_until: held by a running check. starts: claims since the last finished check;
    a link that keeps killing its check is checked alone. attempt: unsettled checks in a row. failures:
    times in a row that Wix could not be asked.
    """

    __tablename__ = "link_checks"

    instance_id: Mapped[UUID] = mapped_column(ForeignKey("app_instances.instance_id"), primary_key=True)
    payment_link_id: Mapped[UUID] = mapped_column(primary_key=True)
    wanted: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    checked: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    due_at: Mapped[datetime | None]
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    starts: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    attempt: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    failures: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    unsettled_since: Mapped[datetime | None]
    last_checked_at: Mapped[datetime | None]
    last_run_id: Mapped[UUID | None]

    __table_args__ = (
        CheckConstraint("checked BETWEEN 0 AND wanted", "checked_within_wanted"),
        CheckConstraint("(lease_id IS NULL) = (lease_until IS NULL)", "lease_whole"),
        CheckConstraint("wanted = checked OR due_at IS NOT NULL", "wanted_is_due"),
        CheckConstraint("starts >= 0 AND attempt >= 0 AND failures >= 0", "counts_not_negative"),
        Index("ix_link_checks_due", "instance_id", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )


class ListedPayment(Base):
    """A payment as Wix lists it to a check under way, or one it does not list; gone when the check ends.

    Here what Wix says is matched with what we believe without being held in memory. payment_link_id: the link
    it is listed under. Facts are NULL, with the reason, when it cannot be read, and when it is_listed not but
    booked under the link. rest, personal: only of a version we have not booked. Unlogged, since a check that
    dies reads again; after a crash of the database it is empty, which the check notices by the number of rows.
    """

    __tablename__ = "listed_payments"

    lease_id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_link_id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    instance_id: Mapped[UUID]
    is_listed: Mapped[bool] = mapped_column(server_default=text("true"))
    reason: Mapped[str | None]
    revision: Mapped[int | None] = mapped_column(BigInteger)
    amount: Mapped[Decimal | None]
    currency: Mapped[str | None]
    type: Mapped[str | None]
    created_at: Mapped[datetime | None]
    transaction_at: Mapped[datetime | None]
    receipt_id: Mapped[UUID | None]
    ecom_checkout_id: Mapped[str | None]
    ecom_order_id: Mapped[str | None]
    method: Mapped[str | None]
    payment_method: Mapped[str | None]
    payment_provider: Mapped[str | None]
    rest: Mapped[dict[str, Any] | None]
    personal: Mapped[dict[str, Any] | None]

    __table_args__ = (
        CheckConstraint(
            "num_nonnulls(revision, amount, currency) = CASE WHEN is_listed AND reason IS NULL THEN 3 ELSE 0 END",
            "facts_when_read",
        ),
        CheckConstraint("is_listed OR reason IS NULL", "reason_when_listed"),
        {"prefixes": ["UNLOGGED"]},
    )


class Sweep(Base):
    """The polling of one instance over a window of creation dates, resumable at any page.

    window_from, window_to, position_at: the sweep under way, NULL between sweeps; everything created
    before position_at has been read. swept_to: end of the last finished window. failures: times in a row
    that Wix could not be asked.
    """

    __tablename__ = "sweeps"

    instance_id: Mapped[UUID] = mapped_column(ForeignKey("app_instances.instance_id"), primary_key=True)
    due_at: Mapped[datetime]
    enqueued_at: Mapped[datetime | None]
    window_from: Mapped[datetime | None]
    window_to: Mapped[datetime | None]
    position_at: Mapped[datetime | None]
    swept_to: Mapped[datetime | None]
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)

    __table_args__ = (
        CheckConstraint("num_nonnulls(window_from, window_to, position_at) IN (0, 3)", "window_whole"),
        CheckConstraint("position_at BETWEEN window_from AND window_to", "position_in_window"),
        CheckConstraint("failures >= 0", "failures_not_negative"),
        CheckConstraint("(lease_id IS NULL) = (lease_until IS NULL)", "lease_whole"),
        Index("ix_sweeps_due", "due_at"),
    )


class BackfillRow(Base):
    """The reading of one span of creation dates of one instance, resumable at any page.

    reason: why it was asked for; actor: by whom, `automation` for the clock. position_at: everything created before it
    has been read. payment_count: payments read. due_at: NULL once it ended, by `finished_at` or `cancelled_at`.
    failures: times in a row that Wix could not be asked.
    """

    __tablename__ = "backfills"

    backfill_id: Mapped[UUID] = mapped_column(primary_key=True)
    instance_id: Mapped[UUID] = mapped_column(ForeignKey("app_instances.instance_id"))
    reason: Mapped[str]
    actor: Mapped[str]
    requested_at: Mapped[datetime]
    window_from: Mapped[datetime]
    window_to: Mapped[datetime]
    position_at: Mapped[datetime]
    payment_count: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    due_at: Mapped[datetime | None]
    enqueued_at: Mapped[datetime | None]
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("reason", "installed", "silence", "downtime", "requested"), "reason"),
        CheckConstraint("window_from < window_to", "window_in_order"),
        CheckConstraint("position_at BETWEEN window_from AND window_to", "position_in_window"),
        CheckConstraint("payment_count >= 0 AND failures >= 0", "counts_not_negative"),
        CheckConstraint("(lease_id IS NULL) = (lease_until IS NULL)", "lease_whole"),
        CheckConstraint("num_nonnulls(due_at, finished_at, cancelled_at) = 1", "due_until_ended"),
        Index("ix_backfills_instance", "instance_id", "requested_at"),
        Index("ix_backfills_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )


class ReconciliationRun(Base):
    """One check, or one part of a sweep or backfill: what it looked at, what it found, what it cost.

    sums: per currency, what we booked and what Wix lists for the links looked at, as decimal strings, with the numbers
    of payments: {"EUR": {"booked": "10.00", "booked_count": 1, "wix": "10.00", "wix_count": 1}}. abandoned:
    its worker died; the work was done again. actor: who started it, `automation` for a worker. beat_at: when its worker
    was last at it. cutoff_at, rule_set_version, settling_seconds: as of when and under which terms a check decided.
    result_digest: SHA-256 of its result, NULL when there is none that could be reproduced. All are NULL in rows of
    older releases.
    """

    __tablename__ = "reconciliation_runs"

    run_id: Mapped[UUID] = mapped_column(primary_key=True)
    instance_id: Mapped[UUID] = mapped_column(ForeignKey("app_instances.instance_id"))
    kind: Mapped[str]
    status: Mapped[str]
    reason: Mapped[str | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    window_from: Mapped[datetime | None]
    window_to: Mapped[datetime | None]
    link_count: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    wix_requests: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    matched: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    expected: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    recovered: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    discrepant: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    opened: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    resolved: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    sums: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    code_version: Mapped[str]
    actor: Mapped[str | None]
    beat_at: Mapped[datetime | None]
    cutoff_at: Mapped[datetime | None]
    rule_set_version: Mapped[int | None] = mapped_column(BigInteger)
    settling_seconds: Mapped[float | None] = mapped_column(Double)
    result_digest: Mapped[bytes | None]

    __table_args__ = (
        CheckConstraint(one_of("kind", "check", "sweep", "backfill"), "kind"),
        CheckConstraint(one_of("status", "running", "succeeded", "failed", "abandoned"), "status"),
        CheckConstraint("(status = 'running') = (finished_at IS NULL)", "finished_when_not_running"),
        CheckConstraint("(status IN ('failed', 'abandoned')) = (reason IS NOT NULL)", "reason_when_failed"),
        CheckConstraint("octet_length(result_digest) = 32", "result_digest_is_sha256"),
        CheckConstraint(
            "result_digest IS NULL"
            " OR (status = 'succeeded' AND num_nulls(actor, cutoff_at, settling_seconds) = 0)",
            "result_is_reproducible",
        ),
        Index("ix_reconciliation_runs_started", "instance_id", "started_at"),
        Index(
            "ix_reconciliation_runs_running",
            "started_at",
            postgresql_where=text("status = 'running'"),
        ),
    )


class RunEvidence(Base):
    """What a check decided on, and what it came to: enough to decide it again, with other eyes or another release.

    part: which transaction of the check, from 1; what did not fit goes on under the next numbers. document: as
    `domain.rerun.document_of` makes it, never personal. lines: of the run's export, one a line. Rows are only added.
    """

    __tablename__ = "run_evidence"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("reconciliation_runs.run_id"), primary_key=True)
    part: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    payment_link_id: Mapped[UUID] = mapped_column(primary_key=True)
    instance_id: Mapped[UUID]
    document: Mapped[dict[str, Any]]
    lines: Mapped[str]

    __table_args__ = (CheckConstraint("part >= 1", "part_positive"),)


ASKED_OF_OPEN = ["type", "severity", "state", "owner", "currency", "amount_at_risk"]


class Discrepancy(Base):
    """A difference that needs a decision; one row however often it is seen, closes and recurs.

    It is where its steps have led (`domain.discrepancy`). sides: what each side says, as text. owner: who looks
    after it, NULL for nobody. reason, resolution: why it was closed, as a code and in words, NULL while it is open;
    the release before wrote no reason. opened_at: when it came up, or came up again after it had gone. aged_from:
    from when its age counts, as of the check that saw it last: the transaction of its payment, else the creation of
    that, else opened_at; of a refund, when that was made. rule_set_version, rules: under which rules it was within
    tolerance, and those that said so, NULL where none did.
    """

    __tablename__ = "discrepancies"

    discrepancy_id: Mapped[UUID] = mapped_column(primary_key=True)
    instance_id: Mapped[UUID] = mapped_column(ForeignKey("app_instances.instance_id"))
    type: Mapped[str]
    severity: Mapped[str]
    state: Mapped[str]
    payment_link_id: Mapped[UUID]
    payment_id: Mapped[UUID | None]
    sides: Mapped[dict[str, Any]]
    amount_at_risk: Mapped[Decimal | None]
    currency: Mapped[str | None]
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    times_seen: Mapped[int] = mapped_column(BigInteger, server_default=ONE)
    first_run_id: Mapped[UUID] = mapped_column(ForeignKey("reconciliation_runs.run_id"))
    last_run_id: Mapped[UUID]
    closed_at: Mapped[datetime | None]
    resolution: Mapped[str | None]
    owner: Mapped[str | None]
    reason: Mapped[str | None]
    times_reopened: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    opened_at: Mapped[datetime] = mapped_column(server_default=NOW)
    rule_set_version: Mapped[int | None] = mapped_column(BigInteger)
    rules: Mapped[str | None]
    aged_from: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (
        CheckConstraint(one_of("severity", "informational", "error"), "severity"),
        CheckConstraint(one_of("state", "open", "investigating", "resolved", "written_off"), "state"),
        CheckConstraint(
            "(state IN ('resolved', 'written_off')) = (closed_at IS NOT NULL)", "closed_when_decided"
        ),
        CheckConstraint("(closed_at IS NULL) = (resolution IS NULL)", "resolution_when_closed"),
        CheckConstraint("times_seen > 0", "times_seen_positive"),
        CheckConstraint("last_seen_at >= first_seen_at", "last_seen_after_first"),
        CheckConstraint("amount_at_risk IS NULL OR currency IS NOT NULL", "amount_has_currency"),
        CheckConstraint(one_of("reason", *Reason), "reason"),
        CheckConstraint("reason IS NULL OR closed_at IS NOT NULL", "reason_when_closed"),
        CheckConstraint("times_reopened >= 0", "times_reopened_not_negative"),
        CheckConstraint("rules IS NULL OR rule_set_version IS NOT NULL", "rules_of_a_version"),
        Index(
            # Begins with the payment, so that no other index comes into question for it: see migration 0008.
            "uq_discrepancies_identity",
            "payment_id",
            "type",
            "payment_link_id",
            "instance_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
        Index("ix_discrepancies_link", "instance_id", "payment_link_id"),
        # What every check writes, such as last_seen_at, is in none of these: see migration 0021.
        Index(
            "ix_discrepancies_queue",
            "aged_from",
            "discrepancy_id",
            postgresql_include=["instance_id", *ASKED_OF_OPEN],
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index(
            "ix_discrepancies_queue_of_instance",
            "instance_id",
            "aged_from",
            "discrepancy_id",
            postgresql_include=ASKED_OF_OPEN,
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index(
            "ix_discrepancies_closed",
            "closed_at",
            "discrepancy_id",
            postgresql_where=text("closed_at IS NOT NULL"),
        ),
    )


class DiscrepancyStep(Base):
    """One thing that happened to a discrepancy. Append-only: a trigger refuses anything else.

    state, severity, sides, amount_at_risk, currency, owner: of the discrepancy after the step. actor: a person's name,
    or `automation` for a check. run_id: the check, NULL for a person. amount: of the write-off it is about.
    """

    __tablename__ = "discrepancy_steps"

    step_id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    discrepancy_id: Mapped[UUID] = mapped_column(ForeignKey("discrepancies.discrepancy_id"))
    instance_id: Mapped[UUID]
    at: Mapped[datetime]
    kind: Mapped[str]
    actor: Mapped[str]
    run_id: Mapped[UUID | None]
    rule_set_version: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str]
    severity: Mapped[str]
    sides: Mapped[dict[str, Any]]
    amount_at_risk: Mapped[Decimal | None]
    currency: Mapped[str | None]
    owner: Mapped[str | None]
    reason: Mapped[str | None]
    amount: Mapped[Decimal | None]
    comment: Mapped[str | None]
    evidence: Mapped[str | None]

    __table_args__ = (
        CheckConstraint(one_of("kind", *StepKind), "kind"),
        CheckConstraint(one_of("state", "open", "investigating", "resolved", "written_off"), "state"),
        CheckConstraint(one_of("reason", *Reason), "reason"),
        CheckConstraint("(actor = 'automation') = (run_id IS NOT NULL)", "automation_is_a_run"),
        CheckConstraint("(kind = 'evidence_added') = (evidence IS NOT NULL)", "evidence_when_added"),
        CheckConstraint("starts_with(kind, 'write_off_') = (amount IS NOT NULL)", "amount_of_a_write_off"),
        Index("ix_discrepancy_steps_discrepancy", "discrepancy_id", "step_id"),
        Index("ix_discrepancy_steps_at", "instance_id", "at"),
    )


class WriteOffRow(Base):
    """A difference accepted, or proposed to be. Who proposes is not who approves.

    amount: in the discrepancy's currency, 0 where no money can be named. ended_by, ended_at: who ended it otherwise
    than by approval, and an approval by reopening (`reversed`), NULL while it stands.
    """

    __tablename__ = "write_offs"

    write_off_id: Mapped[UUID] = mapped_column(primary_key=True)
    discrepancy_id: Mapped[UUID] = mapped_column(ForeignKey("discrepancies.discrepancy_id"))
    instance_id: Mapped[UUID]
    amount: Mapped[Decimal]
    currency: Mapped[str | None]
    reason: Mapped[str]
    status: Mapped[str]
    proposed_by: Mapped[str]
    proposed_at: Mapped[datetime]
    approved_by: Mapped[str | None]
    approved_at: Mapped[datetime | None]
    ended_by: Mapped[str | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            one_of("status", "proposed", "approved", "rejected", "withdrawn", "voided", "reversed"), "status"
        ),
        CheckConstraint(one_of("reason", *Reason), "reason"),
        CheckConstraint("amount >= 0", "amount_not_negative"),
        CheckConstraint("amount = 0 OR currency IS NOT NULL", "amount_has_currency"),
        CheckConstraint("lower(approved_by) <> lower(proposed_by)", "two_persons"),
        CheckConstraint(
            "lower(proposed_by) <> 'automation' AND lower(approved_by) IS DISTINCT FROM 'automation'",
            "persons",
        ),
        CheckConstraint("(approved_by IS NULL) = (approved_at IS NULL)", "approval_whole"),
        CheckConstraint("(ended_by IS NULL) = (ended_at IS NULL)", "end_whole"),
        CheckConstraint(
            "(status IN ('approved', 'reversed')) = (approved_at IS NOT NULL)", "approved_when_so"
        ),
        CheckConstraint("(status IN ('proposed', 'approved')) = (ended_at IS NULL)", "ended_when_so"),
        Index(
            "uq_write_offs_standing",
            "discrepancy_id",
            unique=True,
            postgresql_where=text("status IN ('proposed', 'approved')"),
        ),
        Index("ix_write_offs_proposed", "instance_id", "proposed_at"),
        Index(
            "ix_write_offs_waiting",
            "discrepancy_id",
            postgresql_include=["instance_id", "proposed_by"],
            postgresql_where=text("status = 'proposed'"),
        ),
    )


class RuleSet(Base):
    """Rules of reconciliation (`domain.rules`), as proposed. Append-only; the highest approved version is in force."""

    __tablename__ = "rule_sets"

    version: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    document: Mapped[dict[str, Any]]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    comment: Mapped[str | None]

    __table_args__ = (UniqueConstraint("version", "created_by"),)


class RuleSetApproval(Base):
    """Rules put in force, by another person than proposed them. Append-only."""

    __tablename__ = "rule_set_approvals"

    version: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    created_by: Mapped[str]
    approved_by: Mapped[str]
    approved_at: Mapped[datetime]

    __table_args__ = (
        ForeignKeyConstraint(["version", "created_by"], ["rule_sets.version", "rule_sets.created_by"]),
        CheckConstraint("lower(approved_by) <> lower(created_by)", "two_persons"),
        CheckConstraint("lower(approved_by) <> 'automation'", "person"),
    )


class RuleSetEnding(Base):
    """Rules that never come into force, and why: withdrawn by who proposed them, or rejected by another person.

    Append-only: a trigger refuses anything else. reason: NULL only of what was withdrawn.
    """

    __tablename__ = "rule_set_endings"

    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    created_by: Mapped[str]
    kind: Mapped[str]
    ended_by: Mapped[str]
    ended_at: Mapped[datetime]
    reason: Mapped[str | None]

    __table_args__ = (
        ForeignKeyConstraint(["version", "created_by"], ["rule_sets.version", "rule_sets.created_by"]),
        CheckConstraint(one_of("kind", "withdrawn", "rejected"), "kind"),
        CheckConstraint("lower(ended_by) <> 'automation'", "person"),
        CheckConstraint("kind <> 'rejected' OR lower(ended_by) <> lower(created_by)", "two_persons"),
        CheckConstraint("kind <> 'rejected' OR reason IS NOT NULL", "reason_when_rejected"),
    )


class AlertRow(Base):
    """One change that persons are told of (`domain.alert`), written in the transaction of the change.

    routed_at, when it was given to the channels, is all that changes of it. instance_id: NULL when it is of no single
    instance. Kind, subject and change are unique: a change is told once.
    document: what whoever is told gets; never personal.
    """

    __tablename__ = "alerts"

    alert_id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    instance_id: Mapped[UUID | None]
    at: Mapped[datetime]
    kind: Mapped[str]
    severity: Mapped[str]
    subject: Mapped[str]
    change: Mapped[str]
    document: Mapped[dict[str, Any]]
    routed_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("kind", *AlertKind), "kind"),
        CheckConstraint(one_of("severity", *Severity), "severity"),
        Index("uq_alerts_change", "subject", "kind", "change", unique=True),
        Index("ix_alerts_routed", "routed_at"),
    )


class AlertChannel(Base):
    """A way by which alerts leave, and how it fares. One row for each that was ever configured.

    enqueued_at: when a job for it was last given to the queue. resume_at: it failed, and is left alone until then, NULL
    when it did not. failures: times in a row that it could not be reached. digested_to: end of its last digest's
    period.
    """

    __tablename__ = "alert_channels"

    channel: Mapped[str] = mapped_column(primary_key=True)
    enqueued_at: Mapped[datetime | None]
    resume_at: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    digested_to: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("channel", *Channel), "channel"),
        CheckConstraint("failures >= 0", "failures_not_negative"),
    )


class AlertDelivery(Base):
    """One message to one channel: an alert, a group of them, a digest or a test. It is sent until it is taken.

    delivery_id: the message's own id, the same at every attempt. document: the message, made once. waiting_since: from
    when it is tried for a day. due_at: NULL when it is not to be sent any more. last_error: without any secret.
    """

    __tablename__ = "alert_deliveries"

    delivery_id: Mapped[UUID] = mapped_column(primary_key=True)
    channel: Mapped[str]
    kind: Mapped[str]
    document: Mapped[dict[str, Any]]
    alert_count: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str]
    attempts: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    made_at: Mapped[datetime]
    waiting_since: Mapped[datetime]
    due_at: Mapped[datetime | None]
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    last_error: Mapped[str | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("channel", *Channel), "channel"),
        CheckConstraint(one_of("kind", *DeliveryKind), "kind"),
        CheckConstraint(one_of("status", "waiting", "delivered", "given_up"), "status"),
        CheckConstraint("alert_count >= 0 AND attempts >= 0", "counts_not_negative"),
        CheckConstraint("(status = 'waiting') = (due_at IS NOT NULL)", "due_while_waiting"),
        CheckConstraint("(status = 'waiting') = (ended_at IS NULL)", "ended_when_not_waiting"),
        CheckConstraint("(lease_id IS NULL) = (lease_until IS NULL)", "lease_whole"),
        Index("ix_alert_deliveries_due", "channel", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_alert_deliveries_made", "channel", "made_at"),
    )


class AlertRoute(Base):
    """That an alert goes out by a channel at once, and in which delivery. delivery_id: NULL until there is one."""

    __tablename__ = "alert_routes"

    alert_id: Mapped[UUID] = mapped_column(ForeignKey("alerts.alert_id"), primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    delivery_id: Mapped[UUID | None] = mapped_column(ForeignKey("alert_deliveries.delivery_id"))

    __table_args__ = (
        CheckConstraint(one_of("channel", *Channel), "channel"),
        Index("ix_alert_routes_delivery", "delivery_id"),
        Index("ix_alert_routes_waiting", "channel", postgresql_where=text("delivery_id IS NULL")),
    )


class WixOutage(Base):
    """A time in which Wix could not be asked about an instance, for long enough to be told of.

    since: the first failed run after the last that succeeded. ended_at: when one succeeded again, or the app was
    removed; NULL while it lasts.
    """

    __tablename__ = "wix_outages"

    instance_id: Mapped[UUID] = mapped_column(ForeignKey("app_instances.instance_id"), primary_key=True)
    since: Mapped[datetime] = mapped_column(primary_key=True)
    told_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("ended_at >= since", "ended_after_begin"),
        Index(
            "uq_wix_outages_lasting", "instance_id", unique=True, postgresql_where=text("ended_at IS NULL")
        ),
    )


class LinkCreation(Base):
    """The creation of one payment link, asked for under a reference of the caller.

    Wix has no key by which it would know a request it has seen, so what was asked is written here before Wix
    is. status: `asking` while a process may be creating the link, `looking` while one looks for it (both by
    lease_id, until lease_until); `unclear` when no answer came and the link may exist all the same. digest:
    SHA-256 of the request; a reference stands for one request alone. first_asked_at, last_asked_at: when Wix
    was asked, by our clock; a link made by us was created from the first on. reason: why Wix refused.
    """

    __tablename__ = "link_creations"

    instance_id: Mapped[UUID] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[dict[str, Any]]
    digest: Mapped[bytes]
    status: Mapped[str]
    reason: Mapped[str | None]
    payment_link_id: Mapped[UUID | None]
    first_asked_at: Mapped[datetime]
    last_asked_at: Mapped[datetime]
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("status", "asking", "looking", "unclear", "created", "refused"), "status"),
        CheckConstraint("octet_length(digest) = 32", "digest_is_sha256"),
        CheckConstraint("length(reference) BETWEEN 1 AND 100", "reference_length"),
        CheckConstraint("(status = 'created') = (payment_link_id IS NOT NULL)", "link_when_created"),
        CheckConstraint("(status = 'refused') = (reason IS NOT NULL)", "reason_when_refused"),
        CheckConstraint("(status IN ('asking', 'looking')) = (lease_until IS NOT NULL)", "lease_when_at_it"),
        CheckConstraint("(lease_id IS NULL) = (lease_until IS NULL)", "lease_is_whole"),
        CheckConstraint(
            "(status IN ('created', 'refused')) = (finished_at IS NOT NULL)", "finished_when_decided"
        ),
        CheckConstraint("last_asked_at >= first_asked_at", "asked_in_order"),
        Index(
            "uq_link_creations_link",
            "instance_id",
            "payment_link_id",
            unique=True,
            postgresql_where=text("payment_link_id IS NOT NULL"),
        ),
    )


class AccountRow(Base):
    """A person who may sign in to the pages (`domain.access`).

    password_hash: Argon2id, NULL when it has no password. oidc_subject: issuer and subject, NULL when it does not sign
    in by OpenID Connect. disabled_at: NULL while it may sign in; an account is never deleted, its name is in the books.
    """

    __tablename__ = "accounts"

    account_id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    name: Mapped[str]
    roles: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    sees_personal: Mapped[bool]
    sees_every_instance: Mapped[bool]
    password_hash: Mapped[str | None]
    password_changed_at: Mapped[datetime | None]
    oidc_subject: Mapped[str | None]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            f"roles <@ ARRAY[{', '.join(repr(str(role)) for role in Role)}] AND cardinality(roles) > 0",
            "roles",
        ),
        CheckConstraint("NOT ('auditor' = ANY (roles)) OR cardinality(roles) = 1", "auditors_change_nothing"),
        CheckConstraint("(password_hash IS NULL) = (password_changed_at IS NULL)", "password_whole"),
        CheckConstraint("lower(name) <> 'automation'", "person"),
        Index("uq_accounts_name", text("lower(name)"), unique=True),
        Index(
            "uq_accounts_oidc_subject",
            "oidc_subject",
            unique=True,
            postgresql_where=text("oidc_subject IS NOT NULL"),
        ),
    )


class AccountInstance(Base):
    """That an account sees this instance. Of no account that sees every one."""

    __tablename__ = "account_instances"

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.account_id"), primary_key=True)
    instance_id: Mapped[UUID] = mapped_column(primary_key=True)


class SessionRow(Base):
    """A person signed in with one browser. token_digest: SHA-256 of what the browser holds.

    seen_at: its last request, but for a minute. ended_at: signed out, or ended by another. NULL while it lasts.
    """

    __tablename__ = "sessions"

    token_digest: Mapped[bytes] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.account_id"))
    begun_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("octet_length(token_digest) = 32", "token_digest_is_sha256"),
        CheckConstraint("seen_at >= begun_at", "seen_after_begin"),
        CheckConstraint("ended_at >= begun_at", "ended_after_begin"),
        Index("ix_sessions_account", "account_id", "begun_at"),
    )


class LinkSend(Base):
    """One sending of a payment link, written before Wix is asked for it.

    reference: of the form or command that asked, which is not done twice. door: whether a page or a command was used.
    contact_ids: to whom; NULL for those whom the link names. outcome: `asking` while it is done, and when the process
    died meanwhile; `unclear` when no answer came, so that Wix may have sent it.
    """

    __tablename__ = "link_sends"

    send_id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    reference: Mapped[UUID] = mapped_column(unique=True)
    instance_id: Mapped[UUID]
    payment_link_id: Mapped[UUID]
    asked_at: Mapped[datetime]
    actor: Mapped[str]
    door: Mapped[str]
    contact_ids: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    methods: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    outcome: Mapped[str]
    reason: Mapped[str | None]
    answered_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("door", "page", "command"), "door"),
        CheckConstraint(one_of("outcome", "asking", "sent", "refused", "unclear"), "outcome"),
        CheckConstraint("cardinality(contact_ids) > 0", "somebody"),
        CheckConstraint("(outcome = 'asking') = (answered_at IS NULL)", "answered_when_decided"),
        CheckConstraint("(outcome IN ('refused', 'unclear')) = (reason IS NOT NULL)", "reason_when_not_sent"),
        Index("ix_link_sends_link", "instance_id", "payment_link_id", "send_id"),
    )


class ActionRow(Base):
    """What a person asked for on the pages, written before it was done. Append-only, but for the answer.

    account_id, actor: NULL when nobody was signed in. action: the route that was called. object: what it was about, as
    text; what it made comes with the answer. detail: more of it, never personal. status: the HTTP status that was
    answered, NULL while it is done and when the process died meanwhile.
    """

    __tablename__ = "actions"

    action_id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime]
    account_id: Mapped[UUID | None] = mapped_column(ForeignKey("accounts.account_id"))
    actor: Mapped[str | None]
    action: Mapped[str]
    instance_id: Mapped[UUID | None]
    object: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    request_id: Mapped[str]
    status: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint("(account_id IS NULL) = (actor IS NULL)", "actor_whole"),
        CheckConstraint("status BETWEEN 100 AND 599", "status_possible"),
        Index("ix_actions_at", "at", "action_id"),
        Index("ix_actions_account", "account_id", "at"),
    )


class Heartbeat(Base):
    """When a background process last showed that it lives, and since when without a break.

    steady_since: NULL until a release that knows of it has beaten.
    """

    __tablename__ = "heartbeats"

    process: Mapped[str] = mapped_column(primary_key=True)
    beat_at: Mapped[datetime]
    steady_since: Mapped[datetime | None]


class Listening(Base):
    """How an instance is listened to: whether events of its payments still come.

    look_at: when it is looked at next. looked_at, last_event_at, patience_seconds: what the last look found, NULL
    before the first; last_event_at is NULL as well while no event of a payment came.
    """

    __tablename__ = "listening"

    instance_id: Mapped[UUID] = mapped_column(ForeignKey("app_instances.instance_id"), primary_key=True)
    look_at: Mapped[datetime]
    looked_at: Mapped[datetime | None]
    last_event_at: Mapped[datetime | None]
    patience_seconds: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint("patience_seconds > 0", "patience_positive"),
        Index("ix_listening_look", "look_at"),
    )


class Silence(Base):
    """A time in which no event of a payment came from an instance, for longer than is usual for it.

    verdict: `unverified` until Wix was asked, `quiet` while it lists no payment that we were not told of, `silent`
    since it listed one; then the silence is confirmed, and Wix is not asked again. due_at: when Wix is asked next, NULL
    when it need not be. It ends with the next event.
    """

    __tablename__ = "silences"

    silence_id: Mapped[UUID] = mapped_column(primary_key=True)
    instance_id: Mapped[UUID] = mapped_column(ForeignKey("app_instances.instance_id"))
    silent_since: Mapped[datetime]
    last_event_at: Mapped[datetime | None]
    patience_seconds: Mapped[int] = mapped_column(BigInteger)
    suspected_at: Mapped[datetime]
    verdict: Mapped[str]
    verified_at: Mapped[datetime | None]
    times_verified: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    payments_found: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    wix_requests: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    confirmed_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None]
    due_at: Mapped[datetime | None]
    enqueued_at: Mapped[datetime | None]
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)

    __table_args__ = (
        CheckConstraint(one_of("verdict", "unverified", "quiet", "silent"), "verdict"),
        CheckConstraint(one_of("end_reason", "event", "removed", "clock"), "end_reason"),
        CheckConstraint("(verdict = 'unverified') = (verified_at IS NULL)", "verified_when_judged"),
        CheckConstraint("(verdict = 'silent') = (confirmed_at IS NOT NULL)", "confirmed_when_silent"),
        CheckConstraint("(verdict = 'silent') = (payments_found > 0)", "silent_by_payments"),
        CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", "end_whole"),
        CheckConstraint("ended_at >= silent_since", "ended_after_begin"),
        CheckConstraint(
            "(due_at IS NULL) = (ended_at IS NOT NULL OR verdict = 'silent')", "due_while_in_doubt"
        ),
        CheckConstraint("(lease_id IS NULL) = (lease_until IS NULL)", "lease_whole"),
        CheckConstraint(
            "patience_seconds > 0 AND times_verified >= 0 AND payments_found >= 0 AND wix_requests >= 0"
            " AND failures >= 0",
            "counts_not_negative",
        ),
        # An instance has one silence at a time.
        Index("uq_silences_open", "instance_id", unique=True, postgresql_where=text("ended_at IS NULL")),
        Index("ix_silences_since", "instance_id", "silent_since"),
    )


class Counter(Base):
    """Counts kept by jobs, whose processes are too short-lived to be scraped."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)

    __table_args__ = (CheckConstraint("value >= 0", "value_not_negative"),)


report_readers = Table(
    "report_readers",
    Base.metadata,
    Column("role_name", Text(), nullable=False),
    Column("instance_id", Uuid(), nullable=True),
    Column("granted_at", DateTime(timezone=True), server_default=NOW, nullable=False),
    CheckConstraint("octet_length(role_name) BETWEEN 1 AND 63", "role_name_length"),
    Index(
        "uq_report_readers_role_instance",
        "role_name",
        "instance_id",
        unique=True,
        postgresql_nulls_not_distinct=True,
    ),
)
"""Which roles of the database see which instances in the views of the schema `report` (`store.report_readers`).

It has no key, since instance_id is NULL for a role that sees every instance. The view `report_reach` says what the role
that asks may see; the owner of this table sees everything.
"""
