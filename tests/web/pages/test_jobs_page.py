"""Jobs: what Redis holds, what is due whatever Redis holds, and what is done with a failed one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from processor import errors
from processor.domain.access import EVERYWHERE, Reach, Role
from processor.queue import QUEUE, JobQueue, open_queue
from processor.web.pages import create_pages, queues
from processor.web.pages.failures import failure
from processor.web.pages.queues import reason_of
from tests.web.pages.books import Books


@pytest.fixture
def redis(books: Books) -> Iterator[Redis]:
    held = books.shop.services.queue.redis
    assert held is not None
    held.flushdb()
    yield held
    held.flushdb()


def fail(redis: Redis, *names: str) -> list[str]:
    """Jobs about these that fail; their ids."""
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    ids = [
        queue.enqueue(
            "tests.web.pages.test_jobs_page.failing", name, description=f"check_links {name}", failure_ttl=999
        ).id
        for name in names
    ]
    SimpleWorker([queue], connection=redis, serializer=JSONSerializer).work(
        burst=True, logging_level="CRITICAL"
    )
    return ids


def failing(_about: str) -> None:
    from processor.errors import WixUnavailable

    raise WixUnavailable("Wix did not answer anna@shop.example in time")


def test_jobs_are_shown_with_why_they_failed(books: Books, redis: Redis) -> None:
    [job_id] = fail(redis, str(books.instance_id))
    books.shop.services.queue.enqueue_sweep(books.instance_id)
    books.shop.services.queue.wake_up()

    page = books.person(Role.OPERATOR).read("/jobs")

    assert job_id[:8] in page
    assert "WixUnavailable: Wix did not answer •••••• in time" in page
    assert "anna@" not in page
    assert "Sweep" in page
    assert "Look for due work" in page
    assert "No worker is running" in page


def test_a_failed_job_is_put_into_the_queue_again_once(books: Books, redis: Redis) -> None:
    [job_id] = fail(redis, str(books.instance_id))
    operator = books.person(Role.OPERATOR)

    operator.post("/jobs/requeue", {"job": job_id})
    first = operator.read("/jobs")
    operator.post("/jobs/requeue", {"job": job_id})

    assert "put into the queue again" in first
    assert "no such failed job any more" in operator.read("/jobs")
    assert Queue(QUEUE, connection=redis, serializer=JSONSerializer).get_job_ids() == [job_id]
    assert FailedJobRegistry(QUEUE, connection=redis).get_job_count() == 0


def test_a_failed_job_is_removed(books: Books, redis: Redis) -> None:
    [job_id] = fail(redis, str(books.instance_id))
    operator = books.person(Role.OPERATOR)

    operator.post("/jobs/remove", {"job": job_id})

    assert "The job was removed" in operator.read("/jobs")
    assert not redis.exists(f"rq:job:{job_id}")


def test_only_operators_are_offered_to_change_jobs(books: Books, redis: Redis) -> None:
    [job_id] = fail(redis, str(books.instance_id))
    clerk = books.person(Role.CLERK)

    assert "Try again" not in clerk.read("/jobs")
    assert clerk.post("/jobs/requeue", {"job": job_id}).status_code == 403


def test_what_waits_or_is_no_job_is_not_requeued_or_removed(books: Books, redis: Redis) -> None:
    books.shop.services.queue.wake_up()
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    [waiting] = queue.get_job_ids()
    operator = books.person(Role.OPERATOR)

    for job in (waiting, "", "x" * 5_000, "../*", "\0", str(UUID(int=3))):
        for path in ("requeue", "remove"):
            assert operator.post(f"/jobs/{path}", {"job": job}).status_code == 303
            assert "no such failed job" in operator.read("/jobs")
    assert queue.get_job_ids() == [waiting]


def test_jobs_of_others_are_neither_seen_nor_touched(books: Books, redis: Redis) -> None:
    mine, theirs, nobodys = fail(redis, str(books.other_instance_id), str(books.instance_id), "webhook")
    person = books.person(Role.OPERATOR, reach=Reach(frozenset({books.other_instance_id})))

    page = person.read("/jobs")
    for job in (theirs, nobodys):
        person.post("/jobs/requeue", {"job": job})
        person.post("/jobs/remove", {"job": job})

    assert mine[:8] in page
    assert theirs[:8] not in page
    assert nobodys[:8] not in page
    assert str(books.instance_id)[:8] not in page
    assert FailedJobRegistry(QUEUE, connection=redis).get_job_count() == 3


def test_at_most_so_many_are_shown_the_newest_first(
    books: Books, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "JOBS_MAX", 3)
    for number in range(5):
        books.shop.services.queue.enqueue_check(UUID(int=number))

    found = queues.read(redis, EVERYWHERE)

    assert [one.about for one in found.jobs["queued"]] == [str(UUID(int=number)) for number in (4, 3, 2)]
    assert found.counts is not None
    assert found.counts["queued"] == 5


@pytest.mark.parametrize("queue", [JobQueue(None), open_queue("redis://127.0.0.1:1/0")])
def test_without_redis_the_page_says_so_and_what_is_due(books: Books, queue: JobQueue) -> None:
    books.shop.request(books.links["mug"])
    pages = create_pages(replace(books.shop.services, queue=queue))
    operator = books.person(Role.OPERATOR, app=pages)

    page = operator.read("/jobs")
    assert "REDIS_URL" in page
    assert 'role="alert"' in page
    assert "Next sweep" in page
    assert str(books.instance_id)[:8] in page
    operator.post("/jobs/requeue", {"job": "a"})
    assert "The queue does not answer" in operator.read("/jobs")


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (None, "unknown: the worker may have died"),
        ("", "unknown: the worker may have died"),
        ("Traceback (most recent call last):\n  File\nKeyError: 'anna@shop.example'\n", "KeyError"),
        (
            "sqlalchemy.exc.IntegrityError: (psycopg.errors.X) (anna@shop.example)\nAnna: 1\nDETAIL:  Row (Anna).\n",
            "sqlalchemy.exc.IntegrityError",
        ),
        (
            "processor.errors.StoreUnavailable: the database did not answer\n",
            "StoreUnavailable: the database did not answer",
        ),
        (
            "processor.errors.WixRefused: no, 4111 1111 1111 1111\n\nThe above:\n\nredis.exceptions.TimeoutError: x\n",
            "redis.exceptions.TimeoutError",
        ),
    ],
)
def test_a_reason_says_nothing_that_was_in_the_data(trace: str | None, said: str) -> None:
    assert reason_of(trace) == said


def _errors() -> list[str]:
    """Names of errors that work may end with: those of a request or a person are answered instead."""
    kinds = (errors.WixError, errors.StoreUnavailable, errors.ConfigurationError, errors.NotDelivered)
    return [
        name
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, kinds) and one is not errors.WixError
    ]


@pytest.mark.parametrize(
    "reason",
    [
        *(f"{name}: query_payments" for name in _errors()),
        "processor.errors.WixUnavailable",
        "taken over by another worker",
        "taken over or cancelled",
        "worker died",
        "unknown: the worker may have died",
        "JobTimeoutException",
        "SystemExit",
    ],
)
def test_every_reason_that_is_written_down_has_words_of_its_own(reason: str) -> None:
    assert failure(reason) != failure("")
    assert reason not in failure(reason)


@pytest.mark.parametrize("reason", ["", ":", "KeyError", "\0", "a b: c", "\N{BULLET}" * 300])
def test_any_other_reason_is_an_error_of_ours(reason: str) -> None:
    assert failure(reason).startswith("An error of this service")


def test_an_instance_whose_app_was_removed_is_no_matter_of_credentials() -> None:
    assert failure("WixUnauthorized: the app was removed from this site").startswith("The app was removed")
