"""What is measured of this service, in Prometheus' form.

Web processes count in memory (shared through PROMETHEUS_MULTIPROC_DIR when several serve one port); what
jobs count, and what waits, is read from the database at each scrape, so it is the same from every process.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import prometheus_client
from prometheus_client import CollectorRegistry, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from processor.errors import StoreUnavailable
from processor.store import alerts, operations, silences
from processor.store.database import Database

# Wix gives up at 1.25 s; the buckets are finest where a healthy answer lies.
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 2.5)

DELIVERIES = prometheus_client.Counter(
    "processor_deliveries", "Webhook deliveries answered, by outcome and reason.", ["outcome", "reason"]
)
ANSWER_SECONDS = Histogram(
    "processor_answer_seconds",
    "Time from a webhook's arrival in the application to its answer.",
    buckets=_BUCKETS,
)
COMMIT_SECONDS = Histogram(
    "processor_commit_seconds", "Time to store a batch of webhooks durably.", buckets=_BUCKETS
)
BATCH_EVENTS = Histogram(
    "processor_batch_events", "Webhooks stored by one commit.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
WAKE_UPS = prometheus_client.Counter(
    "processor_wake_ups", "Wake-up jobs sent to Redis, by outcome.", ["outcome"]
)


def note_answers(answers: Mapping[tuple[str, str], int], seconds: Sequence[float]) -> None:
    """Deliveries were answered: how many, by outcome and reason, and how long each took."""
    for labels, number in answers.items():
        DELIVERIES.labels(*labels).inc(number)
    _observe_all(ANSWER_SECONDS, seconds)


def note_commits(commits: Sequence[tuple[float, int]]) -> None:
    """Batches of webhooks were stored: the seconds and the events of each."""
    _observe_all(COMMIT_SECONDS, [seconds for seconds, _ in commits])
    _observe_all(BATCH_EVENTS, [events for _, events in commits])


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """`observe` for each would cost more than all that is done after an answer, and has no form for many."""
    buckets = Counter(bisect_left(histogram._upper_bounds, one) for one in values)
    for place, number in buckets.items():
        histogram._buckets[place].inc(number)
    histogram._sum.inc(sum(values))


def answered_within(share: float) -> tuple[float | None, int]:
    """Seconds within which this share of webhooks was answered, and how many were answered at all.

    Of this process since it began, or of all that share PROMETHEUS_MULTIPROC_DIR. The seconds are the bound of a
    bucket; None when none was answered, or too many took longer than the last.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        families = registry.collect()
    else:
        families = ANSWER_SECONDS.collect()
    counts: dict[float, float] = {}
    for family in families:
        if family.name == "processor_answer_seconds":
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    counts[float(sample.labels["le"])] = sample.value
    number = int(counts.get(float("inf"), 0))
    within = (bound for bound, count in sorted(counts.items()) if count >= share * number)
    found = next(within, float("inf")) if number else float("inf")
    return None if found == float("inf") else found, number


class _FromDatabase(Collector):
    """Figures read from the database at each scrape."""

    def __init__(self, database: Database, now: datetime) -> None:
        self._database = database
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """Prometheus calls this."""
        up = GaugeMetricFamily("processor_database_up", "1 when the database answered this scrape.")
        try:
            with self._database.begin() as connection:
                backlog = operations.backlog(connection, self._now)
                counters = operations.counters(connection)
                discrepancies = operations.open_discrepancies(connection)
                beat = operations.last_beat(connection, operations.CLOCK)
                silent = silences.silent_now(connection)
                channels = alerts.channel_states(connection, self._now)
        except StoreUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield GaugeMetricFamily("processor_due_links", "Links due for a check.", value=backlog.due_links)
        yield GaugeMetricFamily(
            "processor_waiting_requests", "Check requests not yet drained.", value=backlog.waiting_requests
        )
        yield GaugeMetricFamily(
            "processor_held_events", "Events held for an unconfirmed instance.", value=backlog.held_events
        )
        yield GaugeMetricFamily(
            "processor_due_oldest_seconds", "Age of the longest due check.", value=backlog.oldest_seconds
        )
        yield GaugeMetricFamily(
            "processor_open_backfills", "Backfills that are not through.", value=backlog.open_backfills
        )
        yield GaugeMetricFamily(
            "processor_sweep_overdue_seconds",
            "How late the sweep is that is due the longest.",
            value=backlog.sweep_seconds,
        )
        if beat is not None:
            age = (self._now - beat).total_seconds()
            yield GaugeMetricFamily(
                "processor_clock_age_seconds", "Time since the clock last ticked.", value=age
            )
        yield GaugeMetricFamily(
            "processor_silent_instances",
            "Instances from which no webhook comes though Wix lists payments.",
            value=silent.number,
        )
        jobs = CounterMetricFamily(
            "processor_jobs", "Jobs ended, by job and outcome.", labels=["job", "outcome"]
        )
        wix = CounterMetricFamily(
            "processor_wix_responses", "Answers of Wix to jobs, by status.", labels=["status"]
        )
        told = CounterMetricFamily("processor_alerts", "Alerts raised, by kind.", labels=["kind"])
        attempts = CounterMetricFamily(
            "processor_alert_deliveries",
            "Attempts to deliver a message of alerts, by channel and outcome.",
            labels=["channel", "outcome"],
        )
        for name, label, value in counters:
            if name == "jobs":
                job, _, outcome = label.partition(" ")
                jobs.add_metric([job, outcome], value)
            elif name == "wix_responses":
                wix.add_metric([label], value)
            elif name == "alerts":
                told.add_metric([label], value)
            elif name == "alert_deliveries":
                channel, _, outcome = label.partition(" ")
                attempts.add_metric([channel, outcome], value)
        yield jobs
        yield wix
        yield told
        yield attempts
        unsent = GaugeMetricFamily(
            "processor_alert_messages_waiting", "Messages of alerts not yet taken.", labels=["channel"]
        )
        late = GaugeMetricFamily(
            "processor_alert_oldest_seconds", "Age of the oldest of them.", labels=["channel"]
        )
        for state in channels:
            unsent.add_metric([state.channel], state.waiting)
            late.add_metric([state.channel], state.oldest_seconds)
        yield unsent
        yield late
        waiting = GaugeMetricFamily(
            "processor_open_discrepancies", "Open discrepancies.", labels=["type", "severity"]
        )
        for type_, severity, number in discrepancies:
            waiting.add_metric([type_, severity], number)
        yield waiting


def exposition(database: Database, now: datetime) -> bytes:
    """All metrics in the text format, at `now` (aware, UTC)."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)
        own = b""
    else:
        own = generate_latest(REGISTRY)
    registry.register(_FromDatabase(database, now))
    return own + generate_latest(registry)
