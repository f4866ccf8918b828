"""How tests run a command and read what it said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from click.testing import Result

Run = Callable[..., Result]


def told(result: Result) -> Any:
    """What a command said with `--json`."""
    return json.loads(result.stdout)
