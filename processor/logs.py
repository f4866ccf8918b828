"""One event, one line: an action name, the ids, then words. JSON in production, readable in a terminal.

Nothing personal is ever handed to a logger: no bodies, names, addresses, card data, keys or tokens.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

# Libraries that would log every request, query or job.
QUIET = ("httpx2", "httpcore2", "rq", "rq.worker", "rq.queue", "rq.job", "alembic", "werkzeug", "_granian")


def configure(level: str, format_: str, *, process: str) -> None:
    """Send this process's logs to standard error. format_: "json" or "console"."""

    def name_process(
        _logger: Any, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        # Not by a context variable: those of the main thread do not reach a server's own threads.
        return {"process": process, **event}

    shared: list[structlog.typing.Processor] = [
        name_process,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if format_ == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("action"),
                structlog.processors.format_exc_info,
                last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
