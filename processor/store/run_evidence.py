"""What checks decided on and what that came to, kept for whoever decides it again; and the books as they were then."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Uuid

from processor.domain.discrepancy import DiscrepancyType
from processor.domain.payment import FACTS
from processor.domain.rerun import Opened, Piece, Recent, Sum

_LINK_IDS = bindparam("link_ids", type_=ARRAY(Uuid()))
ROWS_AT_ONCE = 100
# A telling is committed within seconds of the moment it bears; clocks of several machines may differ by some more.
RECENT = timedelta(minutes=5)


def write(connection: Connection, run_id: UUID, instance_id: UUID, pieces: Sequence[Piece]) -> None:
    """Keep these pieces, in the transaction that writes what follows from them."""
    for start in range(0, len(pieces), ROWS_AT_ONCE):
        records = [
            {
                "part": one.part,
                "link_id": str(one.payment_link_id),
                "document": one.document,
                "lines": "\n".join(one.lines),
            }
            for one in pieces[start : start + ROWS_AT_ONCE]
        ]
        connection.execute(
            text("""
                INSERT INTO run_evidence (run_id, part, payment_link_id, instance_id, document, lines)
                SELECT :run_id, r.part, r.link_id, :instance_id, r.document, r.lines
                FROM jsonb_to_recordset(CAST(:records AS jsonb))
                    AS r (part bigint, link_id uuid, document jsonb, lines text)"""),
            {"run_id": run_id, "instance_id": instance_id, "records": json.dumps(records)},
        )


def read(connection: Connection, run_id: UUID) -> Iterator[Piece]:
    """All pieces of a run, by part and link, read as they are asked for."""
    found = connection.execute(
        text("""
            SELECT payment_link_id, part, document, lines FROM run_evidence
            WHERE run_id = :run_id ORDER BY part, payment_link_id"""),
        {"run_id": run_id},
        execution_options={"stream_results": True, "yield_per": ROWS_AT_ONCE},
    )
    with found as rows:
        for row in rows:
            yield Piece(
                payment_link_id=row.payment_link_id,
                part=row.part,
                document=row.document,
                lines=tuple(row.lines.split("\n")) if row.lines else (),
            )


def opened(
    connection: Connection,
    instance_id: UUID,
    identities: Collection[tuple[UUID, DiscrepancyType, UUID | None]],
) -> dict[UUID, list[Opened]]:
    """By link, since when these differences have been open: link, type, and payment if of one."""
    if not identities:
        return {}
    rows = connection.execute(
        text("""
            SELECT d.payment_link_id, d.type, d.payment_id, d.opened_at
            FROM unnest(CAST(:links AS uuid[]), CAST(:types AS text[]), CAST(:payments AS uuid[]))
                AS t (link_id, type, payment_id)
            CROSS JOIN LATERAL (
                -- The key begins with the payment, and IS NOT DISTINCT FROM is no condition for an index.
                SELECT * FROM discrepancies d
                WHERE d.payment_id = t.payment_id AND d.type = t.type AND d.payment_link_id = t.link_id
                    AND d.instance_id IS NOT DISTINCT FROM :instance_id
                UNION ALL
                SELECT * FROM discrepancies d
                WHERE t.payment_id IS NULL AND d.payment_id IS NULL AND d.type = t.type
                    AND d.payment_link_id = t.link_id AND d.instance_id IS NOT DISTINCT FROM :instance_id) d
            ORDER BY d.payment_link_id, d.type, d.payment_id"""),
        {
            "instance_id": instance_id,
            "links": [link_id for link_id, _, _ in identities],
            "types": [type_.value for _, type_, _ in identities],
            "payments": [payment_id for _, _, payment_id in identities],
        },
    )
    found: dict[UUID, list[Opened]] = {}
    for row in rows:
        one = Opened(DiscrepancyType(row.type), row.payment_id, row.opened_at)
        found.setdefault(row.payment_link_id, []).append(one)
    return found


def recent(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID], cutoff_at: datetime
) -> dict[UUID, list[Recent]]:
    """By link, the payments booked under it whose revision was stored within RECENT before the cut-off, or later.

    Of these alone the moment they bear does not say whether they were among the books that were read.
    """
    rows = connection.execute(
        text("""
            SELECT payment_link_id, payment_id, revision FROM payments
            WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids) AND changed_at >= :since
            ORDER BY payment_link_id, payment_id""").bindparams(_LINK_IDS),
        {"instance_id": instance_id, "link_ids": list(link_ids), "since": cutoff_at - RECENT},
    )
    found: dict[UUID, list[Recent]] = {}
    for row in rows:
        found.setdefault(row.payment_link_id, []).append(Recent(row.payment_id, row.revision))
    return found


# -- The books as they were ------------------------------------------------------------------------


def rebuilt(
    connection: Connection, instance_id: UUID, run_id: UUID, link_ids: Collection[UUID], cutoff_at: datetime
) -> dict[UUID, dict[str, Sum]]:
    """By link and currency, what was booked at the cut-off of a run, from every telling that is kept.

    Of a payment the highest revision applied counts that was told RECENT before the cut-off; where the evidence names a
    more recent one, that.
    """
    rows = connection.execute(
        text("""
            WITH recent AS MATERIALIZED (
                SELECT CAST(r ->> 'payment_id' AS uuid) AS payment_id, CAST(r ->> 'revision' AS bigint) AS revision
                FROM run_evidence e CROSS JOIN LATERAL jsonb_array_elements(e.document -> 'recent') r
                WHERE e.run_id = :run_id AND e.document ? 'recent'
            ), known AS MATERIALIZED (
                SELECT payment_id FROM payments
                WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids)
                UNION
                SELECT payment_id FROM payment_versions
                WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids)
                UNION
                SELECT payment_id FROM recent
            ), told AS MATERIALIZED (
                SELECT t.payment_id, t.revision, t.payment_link_id, t.amount, t.currency, t.told_at
                FROM known JOIN payment_tellings t ON t.instance_id = :instance_id AND t.payment_id = known.payment_id
                WHERE t.verdict IN ('new', 'newer')
            ), booked AS (
                SELECT * FROM (
                    SELECT DISTINCT ON (payment_id) payment_link_id, amount, currency FROM told
                    WHERE told_at < :horizon AND payment_id NOT IN (SELECT payment_id FROM recent)
                    ORDER BY payment_id, revision DESC) AS old
                UNION ALL
                SELECT t.payment_link_id, t.amount, t.currency FROM recent JOIN told t USING (payment_id, revision)
            )
            SELECT payment_link_id, currency, count(*) AS payments, sum(amount) AS amount FROM booked
            WHERE payment_link_id = ANY(:link_ids) GROUP BY 1, 2 ORDER BY 1, 2""").bindparams(_LINK_IDS),
        {
            "instance_id": instance_id,
            "run_id": run_id,
            "link_ids": list(link_ids),
            "horizon": cutoff_at - RECENT,
        },
    )
    found: dict[UUID, dict[str, Sum]] = {}
    for row in rows:
        found.setdefault(row.payment_link_id, {})[row.currency] = Sum(row.payments, Decimal(row.amount))
    return found


@dataclass(frozen=True, slots=True)
class Contradicted:
    """A booked payment that is not what the telling says it was booked from."""

    payment_id: UUID
    payment_link_id: UUID
    revision: int


def contradicted(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID], limit: int
) -> list[Contradicted]:
    """Payments booked under these links now that are not as the telling applied last: somebody changed them by hand."""
    differs = " OR ".join(f"p.{name} IS DISTINCT FROM t.{name}" for name in FACTS)
    rows = connection.execute(
        text(f"""
            SELECT p.payment_id, p.payment_link_id, p.revision FROM payments p
            LEFT JOIN LATERAL (
                SELECT * FROM payment_tellings t
                WHERE t.instance_id = p.instance_id AND t.payment_id = p.payment_id AND t.verdict IN ('new', 'newer')
                ORDER BY t.revision DESC, t.version_id LIMIT 1) t ON true
            WHERE p.instance_id = :instance_id AND p.payment_link_id = ANY(:link_ids)
                AND (t.revision IS DISTINCT FROM p.revision OR {differs})
            ORDER BY p.payment_id LIMIT :limit""").bindparams(_LINK_IDS),
        {"instance_id": instance_id, "link_ids": list(link_ids), "limit": limit},
    )
    return [Contradicted(*row) for row in rows]
