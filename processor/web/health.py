"""Is it alive, is it ready, how is it doing."""

from __future__ import annotations

import hmac

from flask import Blueprint, Response, abort, jsonify, request

from processor import metrics
from processor.errors import StoreUnavailable
from processor.store import migrations
from processor.store.database import current_migration
from processor.wiring import Services


def blueprint(services: Services) -> Blueprint:
    """`/healthz`, `/readyz` and `/metrics`."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        """200 while the process serves; asks nothing of anybody."""
        return Response("alive\n", mimetype="text/plain")

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int]:
        """200 when webhooks can be stored. Redis is reported, not required."""
        found = {"database": "unreachable", "migration": "unknown"}
        is_ready = False
        try:
            with services.database.begin() as connection:
                current = current_migration(connection)
        except StoreUnavailable:
            pass
        else:
            if current == migrations.head():
                is_ready, migration = True, "at head"
            elif current is not None and not migrations.is_known(current):
                # The next release has migrated already; its migrations let this code go on.
                is_ready, migration = True, f"at {current}, newer than this code"
            else:
                migration = f"at {current or 'nothing'}, want {migrations.head()}"
            found = {"database": "ok", "migration": migration}
        found["redis"] = "ok" if services.queue.is_reachable() else "unreachable"
        return jsonify(ready=is_ready, **found), 200 if is_ready else 503

    @routes.get("/metrics")
    def exposition() -> Response:
        """Prometheus' text format. With METRICS_TOKEN set, only for who bears it."""
        token = services.settings.metrics_token
        if token and not hmac.compare_digest(
            request.headers.get("Authorization", "").encode(), f"Bearer {token}".encode()
        ):
            abort(401)
        return Response(
            metrics.exposition(services.database, services.now()),
            content_type="text/plain; version=0.0.4; charset=utf-8",
        )

    return routes
