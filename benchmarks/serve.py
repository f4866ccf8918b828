"""Serve any WSGI application exactly as `processor serve` serves ours: its own code is run, and only the name changed.

    python -m benchmarks.serve APP --port N [--workers N] [--threads N] [--backpressure N]

So a design never differs from ours by an option of the server, and an option changed there is changed here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import NoReturn

from processor import cli
from processor.system import LOCALHOST

OURS = "wsgi:app"
BACKPRESSURE = "--backpressure"
THREADS = "--blocking-threads"


def arguments_for(theirs: Sequence[str], app: str, changed: Mapping[str, int | None]) -> list[str]:
    """The command line of the server with our application replaced by `app`, and options by those that are not None.

    Raises ValueError when one is not in it.
    """
    arguments = list(theirs)
    arguments[arguments.index(OURS)] = app
    for option, value in changed.items():
        if value is not None:
            arguments[arguments.index(option) + 1] = str(value)
    return arguments


def main() -> NoReturn:
    """Become the server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve")
    parser.add_argument("app")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--backpressure", type=int)
    options = parser.parse_args()
    os.environ |= {
        "HOST": LOCALHOST,
        "PORT": str(options.port),
        "WEB_CONCURRENCY": str(options.workers),
    }
    execute = os.execv
    changed = {BACKPRESSURE: options.backpressure, THREADS: options.threads}

    def become(program: str, arguments: Sequence[str]) -> NoReturn:
        execute(program, arguments_for(arguments, options.app, changed))

    os.execv = become  # type: ignore[assignment]  # the last thing that `processor serve` does
    cli.cli.main(["serve"], prog_name="processor")
    raise SystemExit("processor serve ended without starting a server")


if __name__ == "__main__":
    main()
