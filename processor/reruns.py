"""Runs read back: the export of one, and the proof that the same comes out again.

Two proofs, apart from each other. The result is decided again from the evidence and held against the lines that were
kept, and both against the digest. The books at the cut-off are rebuilt from every telling that is kept, and held
against what the evidence says was booked: where they differ, history was changed since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from processor import __version__
from processor.domain import rerun
from processor.domain.rerun import Line, Sum
from processor.domain.rules import BUILT_IN, Rules, RuleSet, stored
from processor.errors import NotAllowed, ProcessorError, Unreadable
from processor.store import rules, run_evidence, runs
from processor.store.run_evidence import Contradicted
from processor.store.runs import RunLine

CONTRADICTED_MAX = 100  # told of one run


class Changed(ProcessorError):
    """What is kept of a run is not what the run came to."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was booked under a link in a currency at the cut-off: as the evidence says, and as history says now."""

    payment_link_id: UUID
    currency: str
    kept: Sum
    rebuilt: Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What came of a re-run.

    code_version: of the release that ran it again. lines: of the export, the digest's left out. differing: number and
    content of the first line that came out otherwise, None when none did. is_export_whole: whether the kept lines have
    the digest of the run. unreadable: why the evidence cannot be read, None when it can. moved: see there.
    contradicted: payments that are not as they were told, at most CONTRADICTED_MAX.
    """

    run: RunLine
    code_version: str
    lines: int
    differing: tuple[int, Line] | None
    is_export_whole: bool
    unreadable: str | None
    moved: tuple[Moved, ...]
    contradicted: tuple[Contradicted, ...]

    @property
    def is_result_same(self) -> bool:
        """Whether the same came out, byte for byte."""
        return self.differing is None and self.is_export_whole and self.unreadable is None

    @property
    def is_history_same(self) -> bool:
        """Whether history still says what was booked."""
        return not self.moved and not self.contradicted


def reproducible(connection: Connection, run_id: UUID) -> RunLine:
    """A run that has an export. Raises NotAllowed, which says why it has none."""
    run = runs.find(connection, run_id)
    if run is None:
        raise NotAllowed("no such run: `processor runs list` shows what there is")
    if run.result_digest is None:
        why = {
            "running": "it has not ended yet",
            "failed": f"it failed: {run.reason}",
            "abandoned": f"it was abandoned: {run.reason}",
        }.get(run.status, "")
        if not why:
            why = (
                "it is of an older release, which kept no evidence"
                if run.kind == "check"
                else f"a {run.kind} decides nothing: what it found is decided by the checks it asked for"
            )
        raise NotAllowed(f"the run has no export: {why}")
    return run


def _rules(connection: Connection, run: RunLine) -> Rules:
    if run.rule_set_version is None:
        return BUILT_IN
    found = rules.find(connection, run.rule_set_version)
    assert found is not None, "versions of rules are never deleted"
    in_force = stored(found.version, found.document)
    if not in_force.is_readable:
        raise NotAllowed(
            f"it followed version {found.version} of the rules, which another release wrote and this one cannot read:"
            f" run it again with release {run.code_version}"
        )
    return in_force


def exported(connection: Connection, run: RunLine) -> Iterator[str]:
    """The export of a run, line by line as it was kept. The last names the digest of all before it.

    run: of `reproducible`. Raises Changed at the end when the lines do not have the digest of the run.
    """
    assert run.result_digest is not None
    assert run.cutoff_at is not None
    digest = hashlib.sha256()
    number = 0
    terms = run.terms(Rules(run.rule_set_version, RuleSet()))  # nothing is decided here

    def lines() -> Iterator[str]:
        yield rerun.head(terms)
        for piece in run_evidence.read(connection, run.run_id):
            yield from piece.lines

    for one in lines():
        digest.update(one.encode() + b"\n")
        number += 1
        yield one
    last = rerun.control(run.totals, lines=number, cutoff_at=run.cutoff_at, wix_requests=run.wix_requests)
    digest.update(last.encode() + b"\n")
    yield last
    yield rerun.line("digest", sha256=run.result_digest.hex())
    if digest.digest() != run.result_digest:
        raise Changed(
            "this is not what the run came to: its lines were changed since, for they do not have its digest;"
            f" `processor runs rerun {run.run_id}` says which"
        )


def prove(connection: Connection, run_id: UUID) -> Proof:
    """Run it again as of its cut-off. connection: sees one state of the books throughout. Raises NotAllowed."""
    run = reproducible(connection, run_id)
    assert run.cutoff_at is not None
    differing: tuple[int, Line] | None = None
    unreadable: str | None = None
    digest = hashlib.sha256()
    number = 0
    again = rerun.rerun(
        run.terms(_rules(connection, run)),
        run_evidence.read(connection, run_id),
        kept_totals=run.totals,
        cutoff_at=run.cutoff_at,
        wix_requests=run.wix_requests,
    )
    try:
        for one in again:
            if one.kept is not None:
                digest.update(one.kept.encode() + b"\n")
            number += 1
            if differing is None and one.kept != one.again:
                differing = number, one
    except Unreadable as why:
        unreadable = why.detail
    moved, contradicted = _history(connection, run) if unreadable is None else ((), ())
    return Proof(
        run=run,
        code_version=__version__,
        lines=number,
        differing=differing,
        is_export_whole=unreadable is None and digest.digest() == run.result_digest,
        unreadable=unreadable,
        moved=moved,
        contradicted=contradicted,
    )


def _history(connection: Connection, run: RunLine) -> tuple[tuple[Moved, ...], tuple[Contradicted, ...]]:
    assert run.cutoff_at is not None
    kept: dict[UUID, dict[str, Sum]] = {}
    for piece in run_evidence.read(connection, run.run_id):
        described = rerun.evidence_of(piece.document).described
        if described is not None:
            totals = described.books.totals
            kept[piece.payment_link_id] = {
                currency: Sum(totals.counts.get(currency, 0), amount)
                for currency, amount in totals.sums.items()
            }
    rebuilt = run_evidence.rebuilt(connection, run.instance_id, run.run_id, list(kept), run.cutoff_at)
    moved = tuple(
        Moved(link_id, currency, ours, theirs)
        for link_id, sums in sorted(kept.items())
        for currency in sorted(sums.keys() | rebuilt.get(link_id, {}).keys())
        if (ours := sums.get(currency, Sum())) != (theirs := rebuilt.get(link_id, {}).get(currency, Sum()))
    )
    found = run_evidence.contradicted(connection, run.instance_id, list(kept), CONTRADICTED_MAX)
    return moved, tuple(found)
