"""docs/chaos.md, written from one run: its figures, and which test covers which class of faults."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.faults import Fault, faults

if TYPE_CHECKING:
    from tests.chaos.run import Outcome, Struck

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Covered:
    """A class of faults that must end with nothing lost and nothing doubled, and the tests that show it.

    tests: file under tests/ and name of the function, for each; beside the faults of the run.
    """

    words: str
    tests: tuple[str, ...]


J, N, T = "journeys/test_faults.py", "store/test_inbox.py", "store/test_inbox_together.py"
G, C, B = "store/test_group.py", "store/test_checks.py", "test_jobs.py"
E, W, S = "platform/test_embedded.py", "web/test_webhooks.py", "wix/test_signature.py"
P, Q = "wix/test_parse.py", "store/test_judge_in_sql.py"
CHAOS = "chaos/test_chaos.py::test_a_short_run_loses_doubles_and_regresses_nothing"

CLASSES: dict[int, Covered] = {
    1: Covered(
        "killed after commit, before the 200 leaves",
        (
            f"{J}::test_a_web_server_killed_between_commit_and_answer_books_nothing_twice",
            f"{N}::test_a_duplicate_counts_its_delivery_and_changes_nothing_else",
        ),
    ),
    2: Covered(
        "killed after the 200, before enqueueing",
        (
            f"{J}::test_an_emptied_redis_loses_nothing",
            f"{C}::test_each_instance_with_due_links_is_enqueued_by_one_clock",
        ),
    ),
    3: Covered(
        "an enqueueing that reports an error although Redis took it",
        (f"{C}::test_two_claimers_never_share_a_link", f"{W}::test_redis_being_away_costs_an_event_nothing"),
    ),
    4: Covered(
        "Redis down, emptied, failing over",
        (
            f"{J}::test_redis_away_for_the_whole_story_delays_but_loses_nothing",
            f"{J}::test_an_emptied_redis_loses_nothing",
        ),
    ),
    5: Covered(
        "database down, restarted, out of connections, cut, deadlocked",
        (
            f"{J}::test_a_restarted_database_loses_nothing",
            f"{T}::test_connections_that_were_cut_are_opened_anew_and_nothing_is_lost",
            f"{T}::test_a_database_that_hangs_is_not_waited_for",
            f"{W}::test_a_database_that_is_away_is_answered_503_in_time",
        ),
    ),
    6: Covered("disk full, file system read-only", ()),
    7: Covered(
        "the embedded servers killed, restarted, started twice, orphaned",
        (
            f"{E}::test_what_was_committed_outlives_kill_9_of_postgres",
            f"{E}::test_a_folder_is_one_owners_at_a_time",
            f"{E}::test_no_server_outlives_a_parent_killed_with_9",
            f"{E}::test_a_start_works_after_kill_9_of_everything",
        ),
    ),
    8: Covered(
        "the same event at once, often, with another body",
        (
            f"{T}::test_deliveries_of_one_event_at_once_are_stored_once_and_counted",
            f"{N}::test_the_same_event_id_with_another_body_is_kept_as_a_conflict",
            f"{Q}::test_separate_processes_told_the_same_end_in_the_same_books",
        ),
    ),
    9: Covered(
        "reordered, update before create, equal times, late",
        (
            f"{N}::test_an_update_that_overtakes_the_creation_stands",
            f"{N}::test_the_later_of_installation_and_removal_stands_in_any_order",
            f"{Q}::test_any_order_and_duplication_over_concurrent_connections_ends_alike",
        ),
    ),
    10: Covered(
        "webhook never sent, or for longer than Wix resends",
        (
            f"{J}::test_when_every_webhook_is_lost_polling_recovers_every_payment",
            f"{B}::test_a_missed_payment_is_found_by_the_sweep_and_booked_by_the_check_once_it_is_old",
        ),
    ),
    11: Covered(
        "burst, hot link, noisy tenant",
        (
            f"{G}::test_one_more_than_may_wait_is_sent_away_at_once",
            f"{B}::test_a_very_large_link_is_checked_alone_and_holds_nobody_up",
        ),
    ),
    12: Covered(
        "worker killed, frozen, killed again; job popped, not registered",
        (
            f"{J}::test_a_worker_killed_in_the_middle_of_a_job_loses_nothing",
            f"{B}::test_a_job_that_died_after_asking_wix_is_done_again",
            f"{C}::test_a_link_that_keeps_killing_its_check_is_checked_alone",
        ),
    ),
    13: Covered(
        "two workers on one link; a lease that ends while its holder runs",
        (
            f"{C}::test_two_claimers_never_share_a_link",
            f"{C}::test_what_a_dead_worker_held_is_claimed_again_when_its_lease_ends",
            f"{B}::test_a_check_whose_lease_was_taken_over_writes_nothing",
        ),
    ),
    14: Covered(
        "an event arrives while its link is checked",
        (f"{C}::test_a_request_that_lands_during_a_check_leaves_the_link_due",),
    ),
    15: Covered(
        "clock dead, doubled, missing ticks; time moved",
        (
            f"{J}::test_a_stopped_clock_delays_but_loses_nothing",
            f"{C}::test_each_instance_with_due_links_is_enqueued_by_one_clock",
        ),
    ),
    16: Covered(
        "Wix answers 429, 5xx, nothing, or half",
        (
            f"{B}::test_what_goes_wrong_once_costs_a_repetition",
            f"{B}::test_a_wix_that_is_away_postpones_the_check_and_loses_nothing",
        ),
    ),
    20: Covered(
        "key rotated, wrong key, no or another algorithm, too large, broken inner JSON",
        (
            f"{S}::test_any_of_several_keys_serves_so_that_keys_can_be_rotated",
            f"{S}::test_hmac_with_the_public_key_as_secret_is_refused",
            f"{W}::test_what_is_not_wixs_is_answered_401_and_counted_by_reason",
            f"{P}::test_a_later_level_that_cannot_be_read_is_kept_under_its_instance",
        ),
    ),
    21: Covered(
        "an event that would crash whoever reads it",
        (
            f"{W}::test_no_body_makes_a_server_error",
            f"{P}::test_nul_and_lone_surrogates_do_not_cost_a_payment",
            f"{T}::test_a_value_our_columns_refuse_fails_alone",
        ),
    ),
    22: Covered(
        "deploy in mid-traffic, old and new code, migration, back again",
        (
            f"{J}::test_a_graceful_stop_takes_no_time_and_ends_with_success",
            f"{T}::test_a_migration_beneath_a_prepared_statement_is_survived",
            "web/test_health.py::test_it_stays_ready_when_the_next_release_has_migrated",
            "test_migrations.py::test_two_migrations_at_once_wait_for_each_other",
        ),
    ),
}
"""By the numbers of the project's list of promises. 17 to 19 and 23 on are not about intake."""


def families() -> dict[str, list[Fault]]:
    """Faults by the line of the report they belong to."""
    found: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults():
        found[fault.family].append(fault)
    return dict(found)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of all are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: list[float]) -> str:
    """Median, 95th percentile and worst, as cells of a table."""
    if not values:
        return "– | – | –"
    return f"{statistics.median(values):.2f} | {percentile(values, 0.95):.2f} | {max(values):.2f}"


def text(outcome: Outcome) -> str:
    """The report."""
    parts = [
        _head(outcome),
        PROVEN,
        _site(outcome),
        _answers(outcome),
        _evidence(outcome),
        _recovery(outcome),
        _classes(),
        _notes(outcome),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


PROVEN = """
## What is proven, and how

Two web servers, two workers, a clock, PostgreSQL, Valkey and the pretend Wix are processes of their own, and each link
between them goes through a TCP proxy. A sender keeps to Wix's rules: 1,250 ms for an answer, only 200 counts, twelve
resends, their waits 1,200 times faster. It writes down every body before it is sent, and every answer when it came. It
also sends one event at once to both servers and twelve times over, updates before their creation, revisions late and
shuffled, one event id with two bodies, bodies that are poison, and signs some resends anew.

After each fault what was first answered 200 since the last one is looked up by id; every 25 faults, and at the end when
no body is left without its 200, everything sent is compared with everything stored, in both directions.

- **lost**: answered 200, but the event, its version or its payment is not in the database
- **doubled**: an event stored twice, a version of it kept twice, a payment booked or counted as new twice; an amount,
  or a sum by currency, that is not the ledger's
- **regressed**: a payment below the highest revision answered 200, or below what was read before
- **otherwise wrong**: a forgery taken, an event nobody sent, fewer deliveries counted than were answered 200
"""

ANSWERS = """
*Not sent*: the connection failed before the whole request was written. *Sent*: after that; Wix sends it again, and so
does the sender. 401 and 413 are for forgeries, and for events signed with a new key before it was configured.
"""

EVIDENCE = """
Lines of PostgreSQL's log with these words, and what the service itself counted. The log also holds the other databases
of the run, those of the deploys.
"""

RECOVERY = """
## Time to recover

In seconds. **Intake**: from when nothing was in the way any more (of what was killed: when its new start began, so the
start is included) until each web server answered a new event 200. **Books**: from then until a payment made at the
pretend Wix was delivered, booked, and matched with Wix by a worker. If that takes longer than two seconds the next
faults strike meanwhile, so its worst values are of several faults together. A job lost with Redis is enqueued again
after 30 s, and a link whose check Wix refuses, as the weather does at times, is put off by ten minutes; see
[operations.md](operations.md#when-something-fails).
"""

CLASSES_HEAD = """
## Classes of faults, and what covers them

By the numbers of the project's list of promises. `tests/chaos/test_report.py` looks for each test by name;
`tests/chaos/test_chaos.py` strikes with some of these faults in every `make test`. What the sender does all the time is
of classes 8, 9, 20 and 21 as well.
"""

RESTARTED = """
Fifteen seconds after the fault was over it still let nobody in, its postmaster running and its start-up process gone.
It was killed and started anew, as an operator would, and recovered; webhooks were answered 503 until then. During:
"""


SHIMS = """
*Disk full* and *file system read-only* are done by a library preloaded into PostgreSQL that lets writing to its files
fail with ENOSPC or EROFS; *clock steps* by one that moves the wall clock of a process. Both are compiled when they are
needed, and need Linux and a C compiler.
"""


def _table(*rows: str) -> str:
    """Rows as Markdown; the first is the head."""
    return "\n".join((rows[0], "|" + "---|" * (rows[0].count("|") - 1), *rows[1:]))


def _head(outcome: Outcome) -> str:
    struck, found, shape = outcome.struck, outcome.findings, outcome.machine
    pairs = sum(len(one.names) > 1 for one in struck)
    totals = " | ".join(
        f"**{len(one)}**" for one in (found.lost, found.doubled, found.regressed, found.wrong)
    )
    load = ", ".join(f"{one:.2f}" for one in outcome.load_at_start)
    failed = f"\n\n**The run failed**: {outcome.failure}" if outcome.failure else ""
    return f"""
# Chaos

What became of every event while the processes, servers and links of a whole system were hurt. Written by

    make chaos ARGS='--faults {len(struck)} --seed {outcome.seed} --rate {outcome.rate:g} --report docs/chaos.md'

and not by hand. `make test` has a short run of the same.

**{len(struck)} faults** ({pairs} times two at once) in {outcome.seconds / 60:.0f} minutes;
{outcome.bodies:,} bodies sent, {outcome.answered:,} of them answered 200:

{_table("| lost | doubled | regressed | otherwise wrong |", f"| {totals} |")}

Seed {outcome.seed}, begun {outcome.began}, commit {outcome.commit}.
{shape.get("cores")} cores, {shape.get("memory_gb")} GB, {shape.get("system")} {shape.get("kernel")}, \
{shape.get("architecture")}, Python {shape.get("python")}; load average at the start {load}.
The same seed draws the same faults in the same order; at which byte they strike is up to the machine.{failed}
""".replace("\\\n", "")


def _site(outcome: Outcome) -> str:
    truth = (
        "At the end every one of these payments was booked as it\nhappened and matched with Wix, and nothing was left"
        " to settle."
        if outcome.is_good
        else "That their books are right was not shown: the run failed."
    )
    return f"""
Meanwhile buyers made {outcome.sandbox_payments:,} payments at the pretend Wix, whose webhooks, queries and resends went
the same ways. {truth}

Bodies given up after twelve resends: {outcome.given_up}. Those never answered 200 are the forgeries, and what was sent
only to see whether a web server was back, which nobody sends again.
"""


def _answers(outcome: Outcome) -> str:
    counts = [f"| {said} | {count:,} |" for said, count in outcome.answers.items()]
    parts = ["## What the sender was answered", _table("| answer | attempts |", *counts), ANSWERS.strip()]
    rolling = [one for one in outcome.struck if one.names == ["rolling deploy"]]
    if rolling:
        stops = spread(outcome.stop_seconds).replace(" | ", ", ")
        cut = sum(one.cut_unanswered for one in rolling)
        parts.append(
            f"**Rolling deploys**: {len(rolling)}, of two web servers each. In all, {cut} connections ended that had"
            f" been\nsent something and had not answered. A web server took {stops} s to end on SIGTERM (median,"
            " 95th\npercentile, worst), under connections kept alive and in use."
        )
    return "\n\n".join(parts)


def _evidence(outcome: Outcome) -> str:
    if not outcome.evidence:
        return ""
    rows = [f"| {name} | {count:,} |" for name, count in outcome.evidence.items()]
    return "\n\n".join(("## That the faults did strike", EVIDENCE.strip(), _table("| what | times |", *rows)))


def _recovery(outcome: Outcome) -> str:
    by_family: dict[str, list[Struck]] = defaultdict(list)
    for one in outcome.struck:
        by_family[one.families[0] if len(one.families) == 1 else "two at once"].append(one)
    rows = [
        f"| {family} | {_line(by_family[family])} |"
        for family in (*families(), "two at once")
        if by_family.get(family)
    ]
    head = "| fault | times | intake median | p95 | worst | books median | p95 | worst |"
    return f"{RECOVERY.strip()}\n\n{_table(head, *rows, f'| **all** | {_line(outcome.struck)} |')}"


def _line(struck: list[Struck]) -> str:
    matched = [one.probe.matched for one in struck if one.probe and one.probe.matched is not None]
    return f"{len(struck)} | {spread([one.intake for one in struck])} | {spread(matched)}"


def _classes() -> str:
    rows = []
    for number, covered in CLASSES.items():
        kinds = [name for name, group in families().items() if any(number in one.classes for one in group)]
        tests = "<br>".join(f"`{name}`" for name in covered.tests) or "the run alone"
        rows.append(f"| {number}. {covered.words} | {', '.join(kinds) or '–'} | {tests} |")
    table = _table("| class | faults of the run | tests under `tests/` |", *rows)
    done = _table(
        "| fault | what is done |",
        *(f"| {name} | {group[0].summary} |" for name, group in families().items()),
    )
    return "\n\n".join((CLASSES_HEAD.strip(), table, "## The faults", done, SHIMS.strip()))


def _notes(outcome: Outcome) -> str:
    parts: list[str] = []
    if outcome.left_out:
        parts += ["## Left out", "\n".join(f"- {one}" for one in outcome.left_out)]
    if outcome.restarted:
        lines = "\n".join(f"- {fault}" for fault in outcome.restarted)
        parts += ["## PostgreSQL restarted by hand", RESTARTED.strip(), lines]
    if not outcome.exits:
        parts.append("No process of the service ended by itself, but for those that were killed or stopped.")
    if outcome.exits:
        lines = "\n".join(f"- {process}, during {fault}" for process, fault, _ in outcome.exits)
        parts += ["## Processes that ended by themselves", lines]
    if outcome.findings:
        parts += ["## Findings", f"```\n{outcome.findings}\n```"]
    return "\n\n".join(parts)
