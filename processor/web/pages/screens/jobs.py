"""The queue and who works on it, beside what the database says is due."""

from __future__ import annotations

from flask import Blueprint, render_template, request, url_for
from redis.exceptions import RedisError
from werkzeug.wrappers import Response

from processor.domain.access import Permission
from processor.store.screens import jobs as store
from processor.web.pages import queues
from processor.web.pages.access import needs, reach
from processor.web.pages.site import Site, done, refused

AWAY = "The queue does not answer. Nothing was changed; the clock asks for what is due when it does."
GONE = "There is no such failed job any more."


def blueprint(site: Site) -> Blueprint:
    """`/jobs`, and what is done with a failed one."""
    routes = Blueprint("jobs", __name__, url_prefix="/jobs")
    services = site.services

    @routes.get("")
    @needs(Permission.READ)
    def index() -> str:
        with site.read() as connection:
            due = store.due(connection, reach(), services.now())
            beats = store.beats(connection)
        redis, found = services.queue.redis, None
        if redis is not None:
            try:
                found = queues.read(redis, reach())
            except RedisError:
                found = None  # the page says so
        return render_template(
            "jobs.html",
            due=due,
            beats=beats,
            found=found,
            is_configured=redis is not None,
            states=queues.STATES,
            counted_max=store.COUNTED_MAX,
            jobs_max=queues.JOBS_MAX,
            now=services.now(),
        )

    @routes.post("/requeue")
    @needs(Permission.OPERATE, keeps=("job",))
    def requeue() -> Response:
        return _with_failed(queues.requeue, "The job was put into the queue again.")

    @routes.post("/remove")
    @needs(Permission.OPERATE, keeps=("job",))
    def remove() -> Response:
        return _with_failed(
            queues.remove, "The job was removed. What is due is asked for by the clock anyway."
        )

    def _with_failed(change: queues.Change, words: str) -> Response:
        where, redis = url_for("jobs.index"), services.queue.redis
        if redis is None:
            return refused(where, AWAY)
        try:
            is_done = change(redis, request.form.get("job", ""), reach())
        except RedisError:
            return refused(where, AWAY)
        return done(where, words) if is_done else refused(where, GONE)

    return routes
