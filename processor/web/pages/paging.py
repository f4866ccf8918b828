"""Pages of lists in addresses: `at` says where a page begins, everything else stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import abort, request
from werkzeug.datastructures import MultiDict
from werkzeug.urls import iri_to_uri

from processor.store.screens.keyset import BadPosition, Position, Slice


@dataclass(frozen=True, slots=True)
class Pages:
    """Addresses of the pages around one, None where there is none."""

    before: str | None
    after: str | None


def position(*types: type) -> Position | None:
    """Where the page asked for begins, None for the first. types: of the key's values. Answers 400 for another."""
    try:
        return Position.read(request.args.get("at"), *types)
    except BadPosition:
        abort(400, "There is no such page of this list: begin with the first.")


def around(found: Slice[Any]) -> Pages:
    """The pages around the one that was found, narrowed down as it was."""
    return Pages(here(at=found.before and found.before.text()), here(at=found.after and found.after.text()))


def here(**changes: str | None) -> str | None:
    """This page's address with other arguments; None when one of them is None."""
    if None in changes.values():
        return None
    given = MultiDict(request.args)
    for name, value in changes.items():
        given[name] = str(value)
    from urllib.parse import urlencode

    return iri_to_uri(f"{request.path}?{urlencode(list(given.items(multi=True)))}")
