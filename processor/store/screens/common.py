"""What the queries of the screens share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement

from processor.domain.access import Reach
from processor.store.tables import is_any_of


def within(column: Any, reach: Reach) -> list[ColumnElement[bool]]:
    """Conditions under which `column`, an instance_id, is one that may be seen. None for whoever sees every one."""
    return [] if reach.instance_ids is None else [is_any_of(column, reach.instance_ids)]
