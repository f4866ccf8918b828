"""Pages of lists in addresses: `at` says where a page begins, everything else stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

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
    before, after = found.before, found.after
    return Pages(
        None if before is None else here(at=before.text()), None if after is None else here(at=after.text())
    )


def here(**changes: str) -> str:
    """This page's address with other arguments."""
    given = MultiDict(request.args)
    for name, value in changes.items():
        given[name] = value
    return iri_to_uri(f"{request.path}?{urlencode(list(given.items(multi=True)))}")
