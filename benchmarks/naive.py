"""The naive design: what one would write first. The yardstick of `benchmarks.intake`; never for production.

A general JWT library given the PEM at each request, an ORM session for each request, a select and then inserts, and
one enqueued job for each event. It has tables of its own.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import jwt
from flask import Flask, Response, request
from redis import Redis
from rq import Queue
from sqlalchemy import ForeignKey, Numeric, create_engine, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

SCHEMA = """
CREATE TABLE naive_payments (
    payment_id uuid PRIMARY KEY, payment_link_id uuid NOT NULL, instance_id uuid NOT NULL,
    revision bigint NOT NULL, amount numeric(19, 3) NOT NULL, currency text NOT NULL, details jsonb NOT NULL
);
CREATE INDEX ON naive_payments (payment_link_id);
CREATE TABLE naive_events (
    event_id uuid PRIMARY KEY, payment_id uuid NOT NULL REFERENCES naive_payments, event_type text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(), token text NOT NULL
);
"""


class Base(DeclarativeBase):
    """Registry of the two models."""


class Payment(Base):
    """The last state of a payment."""

    __tablename__ = "naive_payments"

    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_link_id: Mapped[UUID]
    instance_id: Mapped[UUID]
    revision: Mapped[int]
    amount: Mapped[Decimal] = mapped_column(Numeric(19, 3))
    currency: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)


class Event(Base):
    """An event, once."""

    __tablename__ = "naive_events"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("naive_payments.payment_id"))
    event_type: Mapped[str]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    token: Mapped[str]


def reconcile(payment_link_id: str) -> None:
    """The job of one event. The benchmark runs no worker."""


def create_app() -> Flask:
    """The WSGI application, configured from the environment."""
    pem = os.environ["WIX_PUBLIC_KEYS"]
    # More than SQLAlchemy's default: with 64 threads that one opens and closes connections all the time, and the
    # naive design is to be no slower than it must be.
    engine = create_engine(
        os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"),
        pool_size=int(os.environ.get("NAIVE_POOL", "16")),
        max_overflow=0,
    )
    queue = Queue("naive", connection=Redis.from_url(os.environ["REDIS_URL"]))
    app = Flask(__name__)

    @app.post("/webhooks/wix")
    def receive() -> Response:
        """Verify, store, enqueue."""
        token = request.get_data(as_text=True)
        try:
            claims = jwt.decode(token, pem, algorithms=["RS256"], options={"verify_iat": False})
        except jwt.InvalidTokenError:
            return Response(status=401)
        envelope = json.loads(claims["data"])
        event = json.loads(envelope["data"])
        entity = event["createdEvent"]["entity"]
        with Session(engine) as session:
            event_id, payment_id = UUID(event["id"]), UUID(entity["id"])
            if session.scalar(select(Event).where(Event.event_id == event_id)) is not None:
                return Response(status=200)
            payment = session.get(Payment, payment_id)
            if payment is None:
                payment = Payment(payment_id=payment_id, revision=-1)
                session.add(payment)
            if int(entity["revision"]) > payment.revision:
                payment.payment_link_id = UUID(entity["paymentLinkId"])
                payment.instance_id = UUID(envelope["instanceId"])
                payment.revision = int(entity["revision"])
                payment.amount = Decimal(entity["amount"])
                payment.currency = entity["currency"]
                payment.details = entity
            # No relationship is declared, so the order of the inserts must be.
            session.flush()
            session.add(
                Event(event_id=event_id, payment_id=payment_id, event_type=envelope["eventType"], token=token)
            )
            session.commit()
        queue.enqueue("benchmarks.naive.reconcile", entity["paymentLinkId"])
        return Response(status=200)

    return app


if "DATABASE_URL" in os.environ:
    app = create_app()
