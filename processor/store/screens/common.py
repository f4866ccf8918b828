"""What the queries of the screens share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from processor.domain.access import Reach
from processor.store.tables import is_any_of


def within(column: Any, reach: Reach) -> list[ColumnElement[bool]]:
    """Conditions under which `column`, an instance_id, is one that may be seen. None for whoever sees every one."""
    return [] if reach.instance_ids is None else [is_any_of(column, reach.instance_ids)]


def keep_to_order(connection: Connection) -> None:
    """Let this transaction read tables by indexes in the order they have, and not whole to sort what fits.

    PostgreSQL thinks the latter cheaper where it takes few to fit. How many are read would then depend on whether it is
    right; in the order of the index it is never more than is asked for.
    """
    connection.execute(
        select(
            func.set_config("enable_seqscan", "off", True), func.set_config("enable_bitmapscan", "off", True)
        )
    )


def let_plan(connection: Connection) -> None:
    """Undo `keep_to_order`."""
    connection.execute(
        select(
            func.set_config("enable_seqscan", "on", True), func.set_config("enable_bitmapscan", "on", True)
        )
    )
