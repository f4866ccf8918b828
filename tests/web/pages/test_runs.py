"""Runs: what is shown, what is asked for, and the proof that a check comes out the same again."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, event, text

from processor.domain.access import EVERYWHERE, Reach, Role
from processor.store import backfills
from processor.store.screens import runs as store
from processor.store.screens.keyset import Position
from processor.store.screens.sieve import sift
from processor.store.tables import ReconciliationRun
from tests.web.pages.books import Books


def a_run(books: Books, kind: str = "check", *, more: str = "true") -> Any:
    return books.shop.rows(
        f"""SELECT * FROM reconciliation_runs WHERE instance_id = :id AND kind = :kind AND {more}
            ORDER BY started_at LIMIT 1""",
        id=books.instance_id,
        kind=kind,
    )[0]


def path_of(run: Any) -> str:
    return f"/runs/{run.instance_id}/{run.run_id}"


def test_the_list_shows_runs_with_what_they_found(books: Books) -> None:
    page = books.person().read("/runs?idle=1")

    for kind in ("check", "sweep"):
        assert str(a_run(books, kind).run_id)[:8] in page
    assert "automation" in page
    assert "Everything read to" in page
    assert "Sweep now" not in page


def test_a_run_shows_totals_differences_and_what_it_recovered(books: Books) -> None:
    run = a_run(books, more="discrepant > 0 AND recovered > 0")

    page = books.person().read(path_of(run))

    assert "Control totals" in page
    assert run.result_digest.hex() in page
    assert "Amount differs" in page
    assert str(books.payments["recovered"])[:8] in page


def test_sweeps_that_found_nothing_are_left_out_until_they_are_asked_for(fresh_books: Books) -> None:
    books, shop = fresh_books, fresh_books.shop
    shop.pay(shop.link())
    found, *empty = swept(books, 3)
    assert [one.link_count for one in (found, *empty)] == [1, 0, 0]
    person = books.person()

    left_out = person.read(f"/runs?kind=sweep&instance={books.instance_id}")
    shown = person.read(f"/runs?kind=sweep&instance={books.instance_id}&idle=1")

    assert str(found.run_id) in left_out
    assert not any(str(one.run_id) in left_out for one in empty)
    assert all(str(one.run_id) in shown for one in [found, *empty])
    [address] = re.findall(r'left out. <a href="([^"]+)"', left_out)
    assert html.unescape(address).startswith("/runs?")
    assert str(empty[0].run_id) in person.read(html.unescape(address))
    assert "left out" not in shown


def test_checks_that_found_nothing_new_are_left_out_until_they_are_asked_for(fresh_books: Books) -> None:
    books, shop = fresh_books, fresh_books.shop
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    fault = shop.sandbox.faults.add({"kind": "wrong_total", "linkId": str(link_id), "by": "5.00"})
    for _ in range(3):
        shop.request(link_id)
        shop.check()
        shop.pass_time()
    shop.sandbox.faults.remove(fault["id"])
    shop.request(link_id)
    shop.check()
    runs = shop.rows("SELECT run_id, opened, resolved FROM reconciliation_runs ORDER BY started_at")
    idle = [one.run_id for one in runs if not one.opened and not one.resolved]
    news = [one.run_id for one in runs if one.opened or one.resolved]
    assert (len(idle), len(news)) == (2, 2)
    person = books.person()

    left_out = person.read(f"/runs?kind=check&instance={books.instance_id}")
    shop.rows("UPDATE reconciliation_runs SET actor = 'ada' WHERE run_id = :id RETURNING 1", id=idle[0])
    by_ada = person.read(f"/runs?kind=check&instance={books.instance_id}")

    assert all(str(one) in left_out for one in news)
    assert not any(str(one) in left_out for one in idle)
    assert str(idle[0]) in by_ada, "what a person asked for is looked for"
    assert str(idle[1]) in person.read(f"/runs?kind=check&instance={books.instance_id}&idle=1")


@pytest.mark.parametrize("fault", ["amount_edited", "payment_deleted"])
def test_a_sweep_that_saw_a_difference_which_is_known_is_never_left_out(
    fresh_books: Books, fault: str
) -> None:
    """It asks for no check: one found it before."""
    books, shop = fresh_books, fresh_books.shop
    [payment] = shop.pay(shop.link("24.00"))
    shop.deliver()
    more = {"amount": "99.00"} if fault == "amount_edited" else {}
    shop.sandbox.faults.add({"kind": fault, "paymentId": str(payment), **more})
    for _ in range(2):
        shop.pass_time()
        shop.check()
    assert shop.open() != []

    runs = swept(books, 2)

    assert runs[-1].link_count == 0
    assert str(runs[-1].run_id) in books.person().read(f"/runs?kind=sweep&instance={books.instance_id}")


def swept(books: Books, times: int) -> list[Any]:
    """Sweeps one after the other, each with the checks that it asked for."""
    shop = books.shop
    for _ in range(times):
        shop.sweep()
        shop.pass_time()
        shop.check()
        shop.pass_time()
    return shop.rows(
        "SELECT run_id, link_count FROM reconciliation_runs WHERE instance_id = :id AND kind = 'sweep'"
        " ORDER BY started_at",
        id=books.instance_id,
    )


def test_a_run_says_what_it_did_to_discrepancies(books: Books) -> None:
    """Also those of links, which are no differing payments."""
    step = books.shop.one(
        "SELECT run_id, discrepancy_id FROM discrepancy_steps WHERE discrepancy_id = :id AND kind = 'opened'",
        id=books.discrepancies["investigating"],
    )
    run = a_run(books, more=f"run_id = '{step.run_id}'")

    page = books.person().read(path_of(run))

    assert run.opened > run.discrepant
    assert f"/discrepancies/{books.instance_id}/{step.discrepancy_id}" in page
    moved = page[page.index("Discrepancies it moved") :]
    assert moved.count('data-label="Step"') == run.opened + run.resolved
    assert "Investigating" in moved, "how it stands now"
    assert "Still open now" in page
    assert f"{run.opened} opened" in books.person().read(f"/runs?kind=check&instance={books.instance_id}")


def test_what_another_run_did_is_not_told_of_this_one(books: Books) -> None:
    other = books.shop.one(
        "SELECT run_id FROM discrepancy_steps WHERE discrepancy_id = :id AND kind = 'opened'",
        id=books.discrepancies["other"],
    )
    with books.shop.services.database.begin() as connection:
        for row in books.shop.rows("SELECT * FROM reconciliation_runs WHERE kind = 'check'"):
            run = store.run(connection, row.instance_id, row.run_id)
            assert run is not None
            found, is_whole = store.moved(connection, run)
            ids = {one.discrepancy_id for one in found}
            assert is_whole
            assert (books.discrepancies["other"] in ids) <= (row.instance_id == books.other_instance_id)
            assert len(found) >= run.opened + run.resolved
    assert other is not None


def test_only_so_many_steps_are_looked_at(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "STEPS_MAX", 1)
    row = a_run(books, more="opened > 1")
    with books.shop.services.database.begin() as connection:
        run = store.run(connection, row.instance_id, row.run_id)
        assert run is not None
        found, is_whole = store.moved(connection, run)
    assert len(found) <= 1
    assert not is_whole


def test_the_difference_of_control_totals_is_wix_less_booked(books: Books) -> None:
    run = a_run(books, more="discrepant > 0")
    [sums] = [sums for currency, sums in run.sums.items() if currency == "USD"]
    page = books.person().read(path_of(run))

    assert "Wix less booked" in page
    more = Decimal(sums["wix"]) - Decimal(sums["booked"])
    assert more > 0
    assert f'<span class="money">{more:,.2f} <span' in page[page.index("Wix less booked") :]


def test_a_sweep_says_that_it_decides_nothing(books: Books) -> None:
    assert "a sweep decides nothing" in books.person().read(path_of(a_run(books, "sweep")))


def test_a_run_that_failed_says_in_words_what_that_means_and_what_to_do(fresh_books: Books) -> None:
    reason = "WixUnauthorized: create_token: Wix refused a token: 400 invalid_grant"
    fresh_books.shop.link()
    fresh_books.shop.sweep()
    row = fresh_books.shop.rows(
        "UPDATE reconciliation_runs SET status = 'failed', reason = :reason WHERE run_id ="
        " (SELECT run_id FROM reconciliation_runs WHERE instance_id = :id LIMIT 1) RETURNING run_id",
        reason=reason,
        id=fresh_books.instance_id,
    )[0]

    page = fresh_books.person().read(f"/runs/{fresh_books.instance_id}/{row.run_id}")

    assert "does not accept the app" in page
    assert "processor doctor" in page
    assert f"<code>{reason}</code>" in page


def test_a_run_is_decided_again_and_comes_out_the_same(books: Books) -> None:
    run = a_run(books, more="result_digest IS NOT NULL")
    operator = books.person(Role.OPERATOR)

    answer = operator.post(f"{path_of(run)}/again")

    assert answer.status_code == 200
    assert "Result: the same" in answer.text
    assert "History: the same" in answer.text


def test_a_run_that_was_tampered_with_comes_out_otherwise(fresh_books: Books) -> None:
    books, shop = fresh_books, fresh_books.shop
    shop.pay(shop.link())
    shop.deliver()
    shop.check()
    run = a_run(books, more="result_digest IS NOT NULL")
    with shop.services.database.begin() as connection:
        connection.execute(text("ALTER TABLE run_evidence DISABLE TRIGGER USER"))
        connection.execute(text("UPDATE run_evidence SET lines = replace(lines, '10', '11')"))

    answer = books.person(Role.OPERATOR).post(f"{path_of(run)}/again")

    assert "Result: it differs from line" in answer.text


def test_what_cannot_be_decided_again_says_why(books: Books) -> None:
    operator = books.person(Role.OPERATOR)
    run = a_run(books, "sweep")

    assert operator.post(f"{path_of(run)}/again").status_code == 303
    assert "a sweep decides nothing" in operator.read(path_of(run))


def test_a_run_too_large_for_a_request_is_left_to_the_command(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LINES_BYTES_MAX", 10)
    run = a_run(books, more="result_digest IS NOT NULL")
    operator = books.person(Role.OPERATOR)

    assert "Decide it again" not in operator.read(path_of(run))
    assert operator.post(f"{path_of(run)}/again").status_code == 303
    assert f"processor runs rerun {run.run_id}" in operator.read(path_of(run))


ODD = ["\0", "x" * 10_000, "9" * 400, "2026-13-45", "0001-01-01", "9999-12-31", "<b>", "-1", "%"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["kind", "status", "since", "until", "instance", "idle"])
def test_odd_filters_are_told_beside_them(books: Books, name: str, odd: str) -> None:
    page = books.person().read(f"/runs?{name}={quote(odd)}&{name}=again")

    assert "wrong-words" in page
    assert "<b>" not in page


def test_an_odd_page_is_no_page(books: Books) -> None:
    for at in ("x", Position(("a",)).text(), Position((uuid4(), uuid4())).text()):
        assert books.person().get(f"/runs?at={at}").status_code == 400


def test_filters_narrow(books: Books) -> None:
    page = books.person().read(f"/runs?kind=sweep&idle=1&instance={books.instance_id}")

    assert str(a_run(books, "sweep").run_id)[:8] in page
    assert str(a_run(books, "check").run_id)[:8] not in page


def test_the_list_of_another_instance_is_not_found(books: Books) -> None:
    person = books.person(reach=Reach(frozenset({books.other_instance_id})))

    assert person.get(f"/runs?instance={books.instance_id}").status_code == 404
    assert str(books.other_instance_id)[:8] in person.read("/runs")


def test_who_sees_no_instance_is_told_so(books: Books) -> None:
    assert "sees no app instance" in books.person(reach=Reach(frozenset())).read("/runs")


# -- Pages of a sifted list ---------------------------------------------------------------------------


@pytest.mark.parametrize("looked_max", [1, 2, 3, 7, 100])
def test_every_run_that_passes_is_on_one_page_however_few_are_looked_at(
    books: Books, looked_max: int
) -> None:
    row = ReconciliationRun
    keys = (row.started_at, row.run_id)
    wanted = books.shop.rows(
        "SELECT run_id FROM reconciliation_runs WHERE kind = 'sweep' ORDER BY started_at DESC, run_id DESC"
    )
    with books.shop.services.database.begin() as connection:
        from sqlalchemy import select

        statement, sieve = select(row.run_id), [row.kind == "sweep"]

        def walk(at: Position | None, side: str) -> tuple[list[list[UUID]], Position | None]:
            found, last = [], None
            for _ in range(200):
                page = sift(connection, statement, sieve, keys, at=at, limit=1, looked_max=looked_max).page
                found.append([one.run_id for one in page.items])
                last, at = at, getattr(page, side)
                if at is None:
                    return found, last
            raise AssertionError("no end")

        down, last = walk(None, "after")
        up, _ = walk(Position(last.key, is_back=True) if last else None, "before")

    flat = [one for page in down for one in page]
    assert flat == [one.run_id for one in wanted]
    if last is not None:
        ids = [one for page in up[::-1] for one in page]
        assert ids == [one for one in flat if one in ids]


# -- Asking for more ----------------------------------------------------------------------------------


def test_a_sweep_and_a_check_are_asked_for(books: Books) -> None:
    operator = books.person(Role.OPERATOR)
    before = books.shop.one("SELECT count(*) AS n FROM check_requests").n

    assert operator.post(f"/runs/{books.instance_id}/sweep").status_code == 303
    assert "Asked for a sweep" in operator.read("/runs")
    link = str(books.links["inactive"])
    operator.post(f"/runs/{books.instance_id}/check", {"link": f" {link} "})
    assert "Asked for a check" in operator.read("/runs")
    operator.post(f"/runs/{books.instance_id}/check", {"link": "<b>"})
    assert "not the id of a payment link" in operator.read("/runs")

    sweep = books.shop.one("SELECT * FROM sweeps WHERE instance_id = :id", id=books.instance_id)
    assert sweep.window_from is not None
    assert books.shop.one("SELECT count(*) AS n FROM check_requests").n == before + 1


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({}, "from which day"),
        ({"since": "soon"}, "Not a day"),
        ({"since": "2026-02-01", "until": "2026-01-01"}, "before the first day"),
        ({"since": "8999-01-01"}, "span is empty"),
    ],
)
def test_a_backfill_without_a_span_is_not_started(books: Books, form: dict[str, str], words: str) -> None:
    operator = books.person(Role.OPERATOR)

    operator.post(f"/runs/{books.instance_id}/backfills", form)

    assert words in operator.read("/runs")
    assert books.shop.rows("SELECT FROM backfills WHERE reason = 'requested'") == []


def test_a_backfill_is_started_once_shown_and_ended(fresh_books: Books) -> None:
    books = fresh_books
    operator = books.person(Role.OPERATOR, name="noor")
    form, path = {"since": "2026-01-01"}, f"/runs/{books.instance_id}/backfills"

    for _ in range(2):
        assert operator.post(path, form).status_code == 303
    [row] = books.shop.rows("SELECT * FROM backfills WHERE reason = 'requested'")
    page = operator.read("/runs")
    ended = {"backfill": str(row.backfill_id)}
    operator.post(f"{path}/cancel", ended)
    first = operator.read("/runs")
    operator.post(f"{path}/cancel", ended)

    assert row.actor == "noor"
    assert "0 % read" in page
    assert "was ended where it stood" in first
    assert "is cancelled already" in operator.read("/runs")


def test_nobody_asks_for_anything_beyond_the_own_instances(books: Books) -> None:
    person = books.person(Role.OPERATOR, reach=Reach(frozenset({books.other_instance_id})))
    mine, now = str(books.instance_id), books.shop.services.now()
    with books.shop.services.database.begin() as connection:
        from datetime import timedelta

        backfill = backfills.request(
            connection,
            books.instance_id,
            now - timedelta(days=2),
            now - timedelta(days=1),
            reason="silence",
            actor="automation",
            now=now,
        )

    asked: list[tuple[str, dict[str, str]]] = [
        (f"{mine}/sweep", {}),
        (f"{mine}/check", {"link": str(books.links["mug"])}),
        (f"{mine}/backfills", {"since": "2026-01-01"}),
        (f"{mine}/backfills/cancel", {"backfill": str(backfill)}),
        (f"{books.other_instance_id}/backfills/cancel", {"backfill": str(backfill)}),
    ]
    for path, form in asked:
        assert person.post(f"/runs/{path}", form).status_code == 404, path
    assert (
        books.shop.one("SELECT cancelled_at FROM backfills WHERE backfill_id = :id", id=backfill)[0] is None
    )


def plans_of(books: Books, ask: Callable[[Connection], Any]) -> list[str]:
    """Plans of the lists that `ask` reads, were its tables too large to be read whole."""
    plans: list[str] = []
    with books.shop.services.database.begin() as connection:
        for name in ("seqscan", "bitmapscan"):
            connection.execute(text(f"SET LOCAL enable_{name} = off"))

        @event.listens_for(connection, "before_cursor_execute")
        def explain(_: Any, cursor: Any, statement: str, given: Any, *more: Any) -> None:
            if statement.startswith("SELECT") and "LIMIT" in statement:
                cursor.execute("EXPLAIN " + statement, given)
                plans.append("\n".join(row[0] for row in cursor.fetchall()))

        ask(connection)
        event.remove(connection, "before_cursor_execute", explain)
    return plans


def test_the_list_is_read_from_its_index(books: Books) -> None:
    plans = plans_of(
        books, lambda connection: store.runs(connection, EVERYWHERE, books.instance_id, kind="sweep")
    )

    assert plans
    assert all("ix_reconciliation_runs_started" in one for one in plans), plans
