"""The worker's process of `benchmarks.checks`: works off what waits, at a word, and tells what that took.

    python -m benchmarks.check_worker CLASS QUEUE [MODULE …]

The modules are imported before anything is worked at, and so before a fork. What waits at the start is worked off as
well and not counted: a worker lives for weeks, and what it does once is not what a job costs. Then it says "ready",
waits for a line, works until the queue is empty, and prints what it used as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from typing import Any

from redis import Redis
from rq import SimpleWorker, SpawnWorker, Worker
from rq.serializers import JSONSerializer

from processor import logs


def _class(name: str) -> Any:
    """A class of workers. "ours" is what `processor worker` runs, asked for only then: it imports the jobs."""
    if name == "ours":
        from processor.worker import Worker as Ours

        return Ours
    return {"fork": Worker, "spawn": SpawnWorker, "simple": SimpleWorker}[name]


def main(class_: str, queue: str, modules: list[str]) -> None:
    """Warm up, wait, work, tell."""
    # Only what is told goes there; what a job or its child prints goes to the log.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logs.configure("INFO", "json", process="worker")
    for module in modules:
        importlib.import_module(module)
    connection = Redis.from_url(os.environ["REDIS_URL"])

    def work() -> tuple[int, int]:
        """Work off what waits. Returns the jobs that succeeded and failed."""
        worker = _class(class_)(
            [queue], connection=connection, serializer=JSONSerializer, log_job_description=False
        )
        worker.work(burst=True, logging_level="WARNING")
        worker.refresh()
        return worker.successful_job_count, worker.failed_job_count

    _, failed = work()
    if failed:
        raise SystemExit("the warm-up failed")
    print("ready", file=told, flush=True)
    sys.stdin.readline()
    before, began = cpu_seconds(), time.perf_counter()
    succeeded, failed = work()
    took = time.perf_counter() - began
    used = cpu_seconds() - before
    answer = {"jobs": succeeded, "failed": failed, "cpu_seconds": used, "seconds": took}
    print(json.dumps(answer), file=told, flush=True)


def cpu_seconds() -> float:
    """Of this process and of its children that ended."""
    return sum(
        one.ru_utime + one.ru_stime
        for one in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
