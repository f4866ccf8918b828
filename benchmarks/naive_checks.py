"""One job for each event: what one would write first. The yardstick of `benchmarks.checks`; never for production.

Each job fetches the link and its payments from Wix, loads ours through the ORM, compares, and writes what differs. It
is no slower than it must be: client and engine are made once, so that a parent that imports this module before it
forks spares every child that, and the access token is kept in Redis. It checks what is
booked in our own tables; what it writes goes to tables that `benchmarks.checks` makes.
"""

from __future__ import annotations

import os
from decimal import Decimal
from uuid import UUID

import httpx2
from redis import Redis
from sqlalchemy import Numeric, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column

TOKEN_SECONDS = 3_600

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))
wix = httpx2.Client(base_url=os.environ["WIX_API_URL"], timeout=10, trust_env=False)
redis = Redis.from_url(os.environ["REDIS_URL"])


class Base(DeclarativeBase):
    """Registry of the models."""


class Payment(Base):
    """A booked payment."""

    __tablename__ = "payments"

    instance_id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_link_id: Mapped[UUID]
    amount: Mapped[Decimal] = mapped_column(Numeric(19, 3))
    currency: Mapped[str]


class Check(Base):
    """A link was checked."""

    __tablename__ = "naive_checks"

    check_id: Mapped[int] = mapped_column(primary_key=True)
    payment_link_id: Mapped[UUID]


class Finding(Base):
    """Something differs."""

    __tablename__ = "naive_findings"

    finding_id: Mapped[int] = mapped_column(primary_key=True)
    payment_link_id: Mapped[UUID]
    type: Mapped[str]


configure_mappers()  # else each child would at its first query


def token(instance_id: str) -> str:
    """An access token of the instance."""
    kept = redis.get(f"naive:token:{instance_id}")
    if kept is not None:
        return kept.decode() if isinstance(kept, bytes) else kept
    answer = wix.post(
        "/oauth2/token",
        json={
            "grant_type": "client_credentials",
            "client_id": os.environ["WIX_APP_ID"],
            "client_secret": os.environ["WIX_APP_SECRET"],
            "instance_id": instance_id,
        },
    )
    answer.raise_for_status()
    new: str = answer.json()["access_token"]
    redis.set(f"naive:token:{instance_id}", new, ex=TOKEN_SECONDS)
    return new


def check(instance_id: str, payment_link_id: str) -> None:
    """The job of one event."""
    headers = {"Authorization": token(instance_id)}
    answer = wix.get(f"/payment-links/v1/payment-links/{payment_link_id}", headers=headers)
    answer.raise_for_status()
    link = answer.json()["paymentLink"]
    answer = wix.post(
        "/payment-links/v1/payment-link-payments/query",
        headers=headers,
        json={"query": {"filter": {"paymentLinkId": payment_link_id}, "cursorPaging": {"limit": 100}}},
    )
    answer.raise_for_status()
    theirs = {UUID(payment["id"]): payment for payment in answer.json()["paymentLinkPayments"]}
    link_id = UUID(payment_link_id)
    with Session(engine) as session:
        booked = session.scalars(select(Payment).where(Payment.payment_link_id == link_id)).all()
        ours = {payment.payment_id: payment for payment in booked}
        types = set()
        for payment_id in ours.keys() | theirs.keys():
            if payment_id not in theirs:
                types.add("missing_at_wix")
            elif payment_id not in ours:
                types.add("missing_here")
            elif ours[payment_id].amount != Decimal(theirs[payment_id]["amount"]):
                types.add("amount_differs")
            elif ours[payment_id].currency != theirs[payment_id]["currency"]:
                types.add("currency_differs")
        if "missing_here" not in types:
            booked_total = sum((payment.amount for payment in booked), Decimal(0))
            if booked_total != Decimal(link["totalReceived"]["amount"]):
                types.add("total_differs")
        session.add_all(Finding(payment_link_id=link_id, type=type_) for type_ in sorted(types))
        session.add(Check(payment_link_id=link_id))
        session.commit()
