"""Wix's own samples, and what they are compared by."""

from __future__ import annotations

import json
from typing import Any

from tests.builders import SAMPLES

FOLDER = SAMPLES / "wix"


def sample(number: int) -> Any:
    """The sample of that number, as Wix published it."""
    [path] = FOLDER.glob(f"{number:02d}-*.json")
    return json.loads(path.read_text())


def filled(given: Any, **places: Any) -> Any:
    """`given` with placeholders replaced, such as ORDER_ID or <APP_ID>, by name without the brackets."""
    if isinstance(given, dict):
        return {name: filled(value, **places) for name, value in given.items()}
    if isinstance(given, list):
        return [filled(value, **places) for value in given]
    if isinstance(given, str):
        return places.get(given.strip("<>").replace("-", "_"), given)
    return given


def missing(documented: Any, ours: Any, where: str = "") -> list[str]:
    """Where `ours` lacks a key of what is documented, or has another type of value there."""
    if isinstance(documented, dict):
        if not isinstance(ours, dict):
            return [where]
        return [
            place
            for name, value in documented.items()
            for place in (
                missing(value, ours[name], f"{where}.{name}") if name in ours else [f"{where}.{name}"]
            )
        ]
    if isinstance(documented, list):
        if not isinstance(ours, list) or not ours:
            return [where]
        return [place for one in ours for place in missing(documented[0], one, f"{where}[]")]
    return [] if type(documented) is type(ours) else [where]
