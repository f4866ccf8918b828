"""What Redis holds of jobs: who waits, who runs, who failed. Ids only; nothing of it is needed for the books."""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from redis import Redis
from rq import Queue, Worker
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.registry import BaseRegistry, FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from processor import errors
from processor.domain.access import Reach
from processor.queue import QUEUE
from processor.web.pages.masking import masked_text

JOBS_MAX = 100  # of each state, the newest
WORKERS_MAX = 50
STATES = ("failed", "started", "queued", "scheduled")
REASON_MAX = 300  # letters
_ERROR = re.compile(r"^((?:\w+\.)*)([A-Z]\w*)(?:: (.*))?$", re.MULTILINE)
_OURS = frozenset(name for name in vars(errors) if isinstance(getattr(errors, name), type))
Change = Callable[[Redis, str, Reach], bool]
_ID = re.compile(r"[\w-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job. about: its first argument, an instance's id or a channel; instance_id: None unless it is one.

    at: when it was enqueued, begun, failed or is due, by its state. reason: why it failed, None for others.
    """

    job_id: str
    name: str
    about: str | None
    instance_id: UUID | None
    state: str
    at: datetime | None
    retries: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """A worker as Redis has it. state: `idle`, `busy` or another of RQ's words."""

    name: str
    state: str
    beat_at: datetime | None
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class Queues:
    """jobs: by state, the newest JOBS_MAX of each. counts: of all of a state; None for who sees some instances only."""

    jobs: dict[str, list[JobLine]]
    counts: dict[str, int] | None
    workers: list[WorkerLine]


def read(redis: Redis, reach: Reach) -> Queues:
    """What the queue holds of the instances of `reach`; jobs of no instance only for who sees every one.

    Raises RedisError.
    """
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    counts = {"queued": queue.count}
    ids = {"queued": queue.get_job_ids(max(0, queue.count - JOBS_MAX), JOBS_MAX)[::-1]}
    for state, registry in _registries(queue).items():
        counts[state] = registry.get_job_count(cleanup=False)
        ids[state] = registry.get_job_ids(0, JOBS_MAX - 1, desc=True, cleanup=False)
    found = {state: _lines(redis, state, ids[state], reach) for state in STATES}
    return Queues(found, counts if reach.instance_ids is None else None, _workers(redis, queue))


def failed_count(redis: Redis, reach: Reach) -> int:
    """How many jobs failed; of who sees some instances only, of the newest JOBS_MAX. Raises RedisError."""
    registry = FailedJobRegistry(QUEUE, connection=redis, serializer=JSONSerializer)
    if reach.instance_ids is None:
        return int(registry.get_job_count(cleanup=False))
    ids = registry.get_job_ids(0, JOBS_MAX - 1, desc=True, cleanup=False)
    return len(_lines(redis, "failed", ids, reach))


def requeue(redis: Redis, job_id: str, reach: Reach) -> bool:
    """Put a failed job into the queue again. False when it is none (any more), or out of reach. Raises RedisError."""
    found = _failed(redis, job_id, reach)
    if found is None:
        return False
    try:
        found[0].requeue(job_id)
    except (InvalidJobOperation, NoSuchJobError):
        return False  # somebody else was faster
    return True


def remove(redis: Redis, job_id: str, reach: Reach) -> bool:
    """Forget a failed job. False when it is none (any more), or out of reach. Raises RedisError."""
    found = _failed(redis, job_id, reach)
    if found is None:
        return False
    found[1].delete()
    return True


def _failed(redis: Redis, job_id: str, reach: Reach) -> tuple[FailedJobRegistry, Job] | None:
    if not _ID.fullmatch(job_id):
        return None
    registry = FailedJobRegistry(QUEUE, connection=redis, serializer=JSONSerializer)
    if job_id not in registry:
        return None
    try:
        job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    except NoSuchJobError:
        return None
    return (registry, job) if _is_within(_line(job, "failed"), reach) else None


def _registries(queue: Queue) -> dict[str, BaseRegistry]:
    return {
        "failed": FailedJobRegistry(queue=queue),
        "started": StartedJobRegistry(queue=queue),
        "scheduled": ScheduledJobRegistry(queue=queue),
    }


def _lines(redis: Redis, state: str, ids: list[str], reach: Reach) -> list[JobLine]:
    if not ids:
        return []
    jobs = Job.fetch_many(ids, connection=redis, serializer=JSONSerializer)
    lines = [_line(job, state) for job in jobs if job is not None]
    return [one for one in lines if _is_within(one, reach)]


def _is_within(line: JobLine, reach: Reach) -> bool:
    if reach.instance_ids is None:
        return True
    return line.instance_id is not None and reach.holds(line.instance_id)


def _line(job: Job, state: str) -> JobLine:
    # A job's description is its name and its arguments, made by `queue`; its data need not be read for that.
    words = (job.description or "").split(" ")
    about = words[1] if len(words) > 1 else None
    at: Any = {"queued": job.enqueued_at, "started": job.started_at, "failed": job.ended_at}.get(state)
    return JobLine(
        job_id=job.id,
        name=words[0] or "unknown",
        about=about,
        instance_id=_instance(about),
        state=state,
        at=_aware(at or job.enqueued_at or job.created_at),
        retries=job.number_of_retries or 0,
        reason=_reason(job) if state == "failed" else None,
    )


def _instance(text: str | None) -> UUID | None:
    try:
        return UUID(text or "")
    except ValueError:
        return None


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _reason(job: Job) -> str:
    result = job.latest_result()
    return reason_of(result.exc_string if result is not None else None)


def reason_of(trace: str | None) -> str:
    """Why a job failed, in a line that can be shown.

    trace: as Python prints it. The message of an error of ours says no secret and nothing personal; that of a library
    may hold what it was given, so only its name is shown.
    """
    found = [one for one in _ERROR.finditer(trace or "") if _is_error(one[1], one[2])]
    if not found:
        return "unknown: the worker may have died"
    module, name, message = found[-1].groups()
    if module == "processor.errors." and name in _OURS and message:
        return f"{name}: {masked_text(message)}"[:REASON_MAX]
    return f"{module}{name}"[:REASON_MAX]


def _is_error(module: str, name: str) -> bool:
    """Whether this names an error, rather than being text of a message that runs over several lines."""
    if not module:
        return isinstance(getattr(builtins, name, None), type)
    return module.partition(".")[0] in sys.modules


def _workers(redis: Redis, queue: Queue) -> list[WorkerLine]:
    keys = sorted(Worker.all_keys(queue=queue))[:WORKERS_MAX]
    found = []
    for key in keys:
        worker = Worker.find_by_key(key, connection=redis, serializer=JSONSerializer)
        if worker is not None:
            found.append(
                WorkerLine(
                    worker.name,
                    str(worker.get_state()),
                    _aware(worker.last_heartbeat),
                    worker.successful_job_count,
                    worker.failed_job_count,
                )
            )
    return found
