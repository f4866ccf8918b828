"""What checks, sweeps and backfills did, how far they are, and the proof that a check comes out the same again."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from uuid import UUID

from flask import Blueprint, abort, render_template, request, url_for
from sqlalchemy import text
from werkzeug.wrappers import Response

from processor import reruns
from processor.domain.access import Permission
from processor.errors import NotAllowed, StoreUnavailable
from processor.store import backfills, checks, instances, sweeps
from processor.store.runs import RunLine
from processor.store.screens import runs as store
from processor.store.screens.instances import choices
from processor.store.screens.keyset import Slice
from processor.store.screens.sieve import Sifted
from processor.web.pages import paging
from processor.web.pages.access import account, needs, reach
from processor.web.pages.asked import Asked
from processor.web.pages.site import Site, address, done, refused

BACKFILLS_SHOWN = 10
PROOF_SECONDS = 5  # of one statement; who needs longer has the command


def blueprint(site: Site) -> Blueprint:
    """`/runs` and `/runs/<instance>/<run>`, and what asks for more of them."""
    routes = Blueprint("runs", __name__, url_prefix="/runs")
    services = site.services

    @routes.get("")
    @needs(Permission.READ)
    def index() -> str:
        asked, at = Asked(), paging.position(*store.KEY_TYPES)
        with site.read() as connection:
            owners = choices(connection, reach())
            owner = asked.instance(owners)
            kind, status = asked.one_of("kind", store.KINDS), asked.one_of("status", store.STATUSES)
            since, until = asked.span(site.clock)
            with_idle = asked.one_of("idle", ("1",)) is not None
            found: Sifted[RunLine] = Sifted(Slice([], None, None), None)
            polling, filling = None, []
            if owner is not None:
                found = store.runs(
                    connection,
                    reach(),
                    owner,
                    kind=kind,
                    status=status,
                    since=since,
                    until=until,
                    with_idle=with_idle,
                    at=at,
                )
                polling = store.polling(connection, owner)
                filling = backfills.latest(connection, owner, BACKFILLS_SHOWN)
        return render_template(
            "runs.html",
            asked=asked,
            owners=owners,
            owner=owner,
            found=found,
            with_idle=with_idle,
            all_address=address(
                url_for("runs.index"),
                {
                    **{name: text for name, text in asked.values.items() if name not in asked.wrong},
                    "idle": "1",
                },
            ),
            pages=paging.around(found.page),
            polling=polling,
            filling=filling,
            now=services.now(),
        )

    @routes.get("/<uuid:instance_id>/<uuid:run_id>")
    @needs(Permission.READ)
    def run(instance_id: UUID, run_id: UUID) -> str:
        return _run(instance_id, run_id)

    def _run(instance_id: UUID, run_id: UUID, proof: reruns.Proof | None = None) -> str:
        with site.read() as connection:
            found = store.run(connection, instance_id, run_id)
            if found is None:
                abort(404)
            decided = store.decided(connection, instance_id, run_id)
            is_small = store.is_small(connection, instance_id, run_id)
            moved, is_moved_whole = store.moved(connection, found)
            standings = store.standings(connection, instance_id, decided.differences)
        now = [
            standings.get((one["type"], one["payment_link_id"], one["payment_id"]))
            for one in decided.differences
        ]
        return render_template(
            "run.html",
            run=found,
            decided=decided,
            standings=now,
            still_open=sum(one is not None and one.state in ("open", "investigating") for one in now),
            moved=moved,
            counts=Counter(one.kind for one in moved),
            is_moved_whole=is_moved_whole,
            is_small=is_small,
            proof=proof,
        )

    @routes.post("/<uuid:instance_id>/<uuid:run_id>/again")
    @needs(Permission.OPERATE)
    def again(instance_id: UUID, run_id: UUID) -> str | Response:
        where = url_for("runs.run", instance_id=instance_id, run_id=run_id)
        by_hand = f"Run it by hand: processor runs rerun {run_id}"
        try:
            with site.read() as connection:
                if store.run(connection, instance_id, run_id) is None:
                    abort(404)
                if not store.is_small(connection, instance_id, run_id):
                    return refused(where, f"It is too large to be decided again here. {by_hand}")
                connection.execute(text(f"SET LOCAL statement_timeout = '{PROOF_SECONDS}s'"))
                proof = reruns.prove(connection, run_id)
        except NotAllowed as why:
            return refused(where, why)
        except StoreUnavailable:
            return refused(where, f"That took too long here. {by_hand}")
        return _run(instance_id, run_id, proof)

    # -- Asking for more ---------------------------------------------------------------------------

    def _refuse_stranger(instance_id: UUID) -> None:
        with site.read() as connection:
            status = instances.status(connection, instance_id)
        if status != "installed":
            raise NotAllowed(
                f"the app instance is {status or 'unknown'}: Wix answers for installed ones only"
            )

    @routes.post("/<uuid:instance_id>/sweep")
    @needs(Permission.OPERATE)
    def sweep(instance_id: UUID) -> Response:
        where, now = url_for("runs.index", instance=instance_id), services.now()
        try:
            _refuse_stranger(instance_id)
        except NotAllowed as why:
            return refused(where, why)
        overlap = timedelta(seconds=services.settings.sweep_overlap_seconds)
        with services.database.begin() as connection:
            sweeps.request(connection, instance_id, now - overlap, now, now)
        return done(where, f"Asked for a sweep. {_begins(services.queue.enqueue_sweep(instance_id))}")

    @routes.post("/<uuid:instance_id>/check")
    @needs(Permission.OPERATE, keeps=("link",))
    def check(instance_id: UUID) -> Response:
        where = url_for("runs.index", instance=instance_id)
        try:
            link_id = UUID(request.form.get("link", "").strip())
        except ValueError:
            return refused(where, "That is not the id of a payment link: it has 32 letters and digits.")
        try:
            _refuse_stranger(instance_id)
        except NotAllowed as why:
            return refused(where, why)
        with services.database.begin() as connection:
            checks.request(connection, instance_id, [link_id], services.now())
        return done(where, f"Asked for a check of the link. {_begins(services.queue.wake_up())}")

    @routes.post("/<uuid:instance_id>/backfills")
    @needs(Permission.OPERATE, keeps=("since", "until"))
    def start_backfill(instance_id: UUID) -> Response:
        where, now = url_for("runs.index", instance=instance_id), services.now()
        asked = Asked(request.form)
        since, until = asked.span(site.clock)
        if asked.wrong:
            return refused(where, f"Not started: {'; '.join(sorted(asked.wrong.values()))}")
        if since is None:
            return refused(where, "Say from which day on payments are to be read.")
        # To the hour, so that two clicks ask for one and the same; sweeps read what is younger anyway.
        hour = now.replace(minute=0, second=0, microsecond=0)
        end = min(until or now, hour if since < hour else now)
        if since >= end:
            return refused(where, "The span is empty: it has to begin before it ends, and before now.")
        try:
            _refuse_stranger(instance_id)
        except NotAllowed as why:
            return refused(where, why)
        with services.database.begin() as connection:
            backfills.request(
                connection, instance_id, since, end, reason="requested", actor=account().name, now=now
            )
        return done(where, f"Asked for a backfill. {_begins(services.queue.enqueue_backfill(instance_id))}")

    @routes.post("/<uuid:instance_id>/backfills/cancel")
    @needs(Permission.OPERATE, keeps=("backfill",))
    def cancel_backfill(instance_id: UUID) -> Response:
        where = url_for("runs.index", instance=instance_id)
        try:
            backfill_id = UUID(request.form.get("backfill", ""))
        except ValueError:
            abort(400, "The form names no backfill.")
        with services.database.begin() as connection:
            line = backfills.find(connection, backfill_id)
            if line is None or line.instance_id != instance_id:
                abort(404)
            is_ended = backfills.cancel(connection, backfill_id, services.now())
        if not is_ended:
            return refused(where, f"The backfill is {line.status} already.")
        return done(where, "The backfill was ended where it stood. What it found stays.")

    return routes


def _begins(is_enqueued: bool) -> str:
    if is_enqueued:
        return "A worker begins as soon as one is free."
    return "The queue does not answer; it begins when it does."
