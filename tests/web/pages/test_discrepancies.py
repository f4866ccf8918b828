"""The work queue of discrepancies, and the whole life of one through the pages."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text
from werkzeug.test import TestResponse

from processor import decisions
from processor.domain.access import Reach, Role
from processor.errors import StoreUnavailable
from processor.store.screens import discrepancies as store
from processor.store.screens.keyset import Position
from processor.web.pages.screens import discrepancies as screen
from tests.web.pages.books import MARKUP, Books, Person

ACTIONS = (
    *("investigate", "assign", "comment", "evidence", "resolve", "write-off", "withdraw", "reopen"),
    *("approve", "reject"),
)


def path_of(books: Books, name: str, action: str = "") -> str:
    found = books.shop.one(
        "SELECT instance_id, discrepancy_id FROM discrepancies WHERE discrepancy_id = :id",
        id=books.discrepancies[name],
    )
    return f"/discrepancies/{found.instance_id}/{found.discrepancy_id}" + (f"/{action}" if action else "")


def last_step(books: Books, name: str) -> str:
    return str(
        books.shop.one(
            "SELECT max(step_id) AS n FROM discrepancy_steps WHERE discrepancy_id = :id",
            id=books.discrepancies[name],
        ).n
    )


def act(books: Books, person: Person, name: str, action: str, **form: str) -> TestResponse:
    return person.post(path_of(books, name, action), {"step": last_step(books, name), **form})


def said(person: Person) -> str:
    """What the next page tells."""
    found = re.findall(r'<p class="notice \w+" role="\w+">(.*?)</p>', person.read("/account"), re.DOTALL)
    return " ".join(found)


def state(books: Books, name: str) -> str:
    return str(
        books.shop.one(
            "SELECT state FROM discrepancies WHERE discrepancy_id = :id", id=books.discrepancies[name]
        ).state
    )


def ids_on(page: str) -> set[UUID]:
    """Discrepancies that a page of the queue links to."""
    return {UUID(found) for found in re.findall(r'href="/discrepancies/[0-9a-f-]{36}/([0-9a-f-]{36})"', page)}


# -- The queue ---------------------------------------------------------------------------------------


def test_the_queue_shows_what_needs_a_decision_the_oldest_first(books: Books) -> None:
    page = books.person().read("/discrepancies")

    shown = re.findall(r'href="/discrepancies/[0-9a-f-]{36}/([0-9a-f-]{36})"', page)
    expected = books.shop.rows("""
        SELECT d.discrepancy_id FROM discrepancies d
        LEFT JOIN payments p ON p.instance_id = d.instance_id AND p.payment_id = d.payment_id
        WHERE d.closed_at IS NULL
        ORDER BY COALESCE(p.transaction_at, p.created_at, d.opened_at), d.discrepancy_id""")
    assert shown == [str(row.discrepancy_id) for row in expected]
    assert "Amount differs" in page


def test_the_totals_are_those_of_the_filter_for_each_currency(books: Books) -> None:
    page = books.person().read("/discrepancies?currency=usd")

    [row] = books.shop.rows("""
        SELECT count(*) AS n, sum(amount_at_risk) AS amount FROM discrepancies
        WHERE closed_at IS NULL AND currency = 'USD'""")
    assert f'At risk in USD</dt>\n<dd class="value"><span class="money">{row.amount:.2f}' in page
    assert f"{row.n} discrepancies</dd>" in page
    assert "JPY" not in page.split("</details>", 1)[1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=open", {"open", "proposed", "other"}),
        ("state=investigating", {"investigating"}),
        ("type=amount_differs", {"open", "other"}),
        ("severity=informational", set()),
        ("owner=nobody", {"open", "proposed", "other"}),
        ("owner=NOOR", {"investigating"}),
        ("owner=me", set()),
        ("currency=JPY", {"investigating"}),
        ("amount_from=75&amount_to=75", {"open"}),
        ("amount_to=5", {"investigating", "proposed"}),
        ("aging=under-1-hour", {"open", "investigating", "proposed", "other"}),
        ("aging=over-90-days", set()),
        ("approval=any", {"proposed"}),
        ("approval=mine", {"proposed"}),
        ("state=any&link={yen}", {"investigating"}),
        ("link={order}", {"proposed"}),
        ("payment={discrepant}", {"open"}),
        ("instance={other_instance}", {"other"}),
        ("state=closed", set()),
        ("state=resolved&type=amount_differs", set()),
    ],
)
def test_each_filter_narrows(books: Books, query: str, expected: set[str]) -> None:
    query = query.format(
        **{name: books.links[name] for name in ("yen", "order")},
        discrepant=books.payments["discrepant"],
        other_instance=books.other_instance_id,
    )

    page = books.person(Role.APPROVER).read(f"/discrepancies?{query}")

    assert ids_on(page) == {books.discrepancies[name] for name in expected}
    assert 'class="wrong-words"' not in page


@pytest.mark.parametrize(
    "query",
    [
        *("state=no", "state=any", "type=no", "severity=no", "currency=dollars", "aging=old", "approval=all"),
        *("link=no", "payment=1", "instance=x", "amount_from=1,5", "amount_to=1e5", "owner=%00"),
        *("amount_from=5&amount_to=4", f"amount_from={'9' * 400}", "state=closed&aging=under-1-day"),
    ],
)
def test_what_cannot_be_read_is_told_beside_its_field_and_shows_nothing(books: Books, query: str) -> None:
    answer = books.person(Role.CLERK).get(f"/discrepancies?{query}")

    assert answer.status_code == 200
    assert 'class="wrong-words"' in answer.text
    assert ids_on(answer.text) == set()


def test_a_position_of_another_list_is_no_page(books: Books) -> None:
    assert books.person().get("/discrepancies?at=WyJhIixbImkiLDFdXQ").status_code == 400
    assert books.person().get("/discrepancies?state=closed&at=nonsense").status_code == 400


def test_nobody_sees_the_queue_of_another_instance(books: Books) -> None:
    person = books.person(Role.CLERK, reach=Reach(frozenset({books.other_instance_id})))

    assert ids_on(person.read("/discrepancies")) == {books.discrepancies["other"]}
    assert person.get(f"/discrepancies?instance={books.instance_id}").status_code == 404
    assert ids_on(person.read(f"/discrepancies?state=any&link={books.links['yen']}")) == set()


def test_an_approver_is_told_of_what_waits_but_not_of_the_own_proposals(books: Books) -> None:
    approver = books.person(Role.APPROVER)
    proposer = books.person(Role.APPROVER, name="MAYA")

    assert "Waiting for my approval" in approver.read("/discrepancies")
    assert "Waiting for my approval" not in proposer.read("/discrepancies")
    assert ids_on(proposer.read("/discrepancies?approval=mine")) == set()
    assert ids_on(proposer.read("/discrepancies?approval=any")) == {books.discrepancies["proposed"]}


def many(books: Books, count: int, *, is_closed: bool = False) -> None:
    """Discrepancies of payments that are not there, one second after the other; closed ones with their steps."""
    books.shop.rows(
        """
        WITH made AS (
            INSERT INTO discrepancies (discrepancy_id, instance_id, type, severity, state, payment_link_id, payment_id,
                sides, amount_at_risk, currency, first_seen_at, last_seen_at, opened_at, aged_from, first_run_id,
                last_run_id, closed_at, resolution, reason)
            SELECT gen_random_uuid(), :instance_id, 'missing_at_wix', 'error',
                CASE WHEN :is_closed THEN 'resolved' ELSE 'open' END, gen_random_uuid(), gen_random_uuid(), '{}', n,
                'EUR', :now, :now, at, at, :run_id, :run_id,
                CASE WHEN :is_closed THEN CAST(:now AS timestamptz) END, CASE WHEN :is_closed THEN 'gone' END,
                CASE WHEN :is_closed THEN 'caught_up' END
            FROM generate_series(1, :count) n
            CROSS JOIN LATERAL (SELECT CAST(:now AS timestamptz) - n * interval '1 hour' AS at) t
            RETURNING discrepancy_id, instance_id)
        INSERT INTO discrepancy_steps (discrepancy_id, instance_id, at, kind, actor, run_id, state, severity, sides,
            reason)
        SELECT discrepancy_id, instance_id, :now, kind, 'automation', :run_id,
            CASE kind WHEN 'opened' THEN 'open' ELSE 'resolved' END, 'error', '{}',
            CASE kind WHEN 'resolved' THEN 'caught_up' END
        FROM made, unnest(CASE WHEN :is_closed THEN ARRAY['opened', 'resolved'] ELSE ARRAY['opened'] END) AS kind
        RETURNING step_id""",
        instance_id=books.instance_id,
        is_closed=is_closed,
        count=count,
        now=books.shop.services.now(),
        run_id=run_of(books),
    )


def one(books: Books) -> None:
    """A single one, named so."""
    many(books, 1)
    found = books.shop.one("SELECT discrepancy_id FROM discrepancies")
    books.discrepancies["one"] = found.discrepancy_id


def run_of(books: Books) -> UUID:
    """A run of the instance."""
    run_id = uuid4()
    books.shop.rows(
        """
        INSERT INTO reconciliation_runs (run_id, instance_id, kind, status, started_at, finished_at, code_version)
        VALUES (:run_id, :instance_id, 'check', 'succeeded', :now, :now, 'test') RETURNING run_id""",
        run_id=run_id,
        instance_id=books.instance_id,
        now=books.shop.services.now(),
    )
    return run_id


@pytest.mark.parametrize("is_closed", [False, True])
def test_the_pages_of_the_queue_show_everything_once_forth_and_back(
    fresh_books: Books, is_closed: bool
) -> None:
    many(fresh_books, 120, is_closed=is_closed)
    person, path = fresh_books.person(), "/discrepancies?state=closed" if is_closed else "/discrepancies"

    forth = [person.read(path)]
    while following := re.search(r'rel="next" href="([^"]+)"', forth[-1]):
        forth.append(person.read(following[1].replace("&amp;", "&")))
    back = [forth[-1]]
    while before := re.search(r'rel="prev" href="([^"]+)"', back[-1]):
        back.append(person.read(before[1].replace("&amp;", "&")))

    shown = [ids_on(page) for page in forth]
    assert [len(ids) for ids in shown] == [50, 50, 20]
    assert len(set.union(*shown)) == 120
    assert [ids_on(page) for page in reversed(back)] == shown


@pytest.mark.parametrize("query", ["", "&type=total_differs"])
def test_a_page_behind_the_last_does_not_say_that_nothing_needs_a_decision(books: Books, query: str) -> None:
    behind = Position((datetime(9999, 1, 1, tzinfo=UTC), UUID(int=0))).text()
    person = books.person(Role.CLERK)

    page = person.read(f"/discrepancies?at={behind}{query}")

    assert ids_on(page) == set()
    assert "There are no more discrepancies." in page
    assert "Nothing needs a decision" not in page
    assert "No discrepancy fits" not in page
    [first] = re.findall(r'href="([^"]+)">Go to the first page', page)
    assert ids_on(person.read(first.replace("&amp;", "&"))) != set()


def test_what_was_closed_is_listed_once_by_its_last_closing(fresh_books: Books) -> None:
    many(fresh_books, 3, is_closed=True)
    first = fresh_books.shop.rows("SELECT discrepancy_id FROM discrepancies ORDER BY 1 LIMIT 1")[
        0
    ].discrepancy_id
    fresh_books.discrepancies["first"] = first
    clerk = fresh_books.person(Role.CLERK)
    fresh_books.shop.pass_time()
    for action, form in (
        ("reopen", {"comment": "not so"}),
        ("resolve", {"reason": "test_data"}),
        ("comment", {"comment": "that was it"}),
    ):
        assert act(fresh_books, clerk, "first", action, **form).status_code == 303

    page = fresh_books.person().read("/discrepancies?state=closed")

    assert re.findall(r'href="/discrepancies/[0-9a-f-]{36}/([0-9a-f-]{36})"', page)[0] == str(first)
    assert len(ids_on(page)) == 3


@pytest.mark.parametrize("is_closed", [False, True])
def test_for_what_no_index_knows_a_bounded_number_is_looked_at_a_page(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    monkeypatch.setattr(store, "LOOKED_MAX", 10)
    many(fresh_books, 2, is_closed=is_closed)
    fresh_books.shop.rows(
        """
        UPDATE discrepancies SET type = 'total_differs', closed_at = closed_at - interval '1 hour',
            aged_from = aged_from + interval '2 hours'
        RETURNING 1"""
    )
    many(fresh_books, 30, is_closed=is_closed)

    person = fresh_books.person()
    page = person.read(f"/discrepancies?type=total_differs{'&state=closed' if is_closed else ''}")
    empty = 0
    while not ids_on(page):
        assert "look further" in page
        empty += 1
        following = re.search(r'rel="next" href="([^"]+)"', page)
        assert following
        page = person.read(following[1].replace("&amp;", "&"))

    assert empty == 3
    assert len(ids_on(page)) == 2
    assert 'rel="next"' not in page


def test_of_very_many_the_oldest_are_added_up_and_on_request_all(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(fresh_books, 30)
    monkeypatch.setattr(store, "LOOKED_MAX", 10)
    person = fresh_books.person()

    page = person.read("/discrepancies")
    whole = person.read("/discrepancies?totals=all")
    young = person.read("/discrepancies?aging=under-1-day")

    assert len(ids_on(page)) == len(ids_on(whole)) == 30
    assert "only the oldest 10 were added up" in page
    assert '/discrepancies?totals=all"' in page
    assert '<dd class="value">10</dd>' in page
    assert '<dd class="value">30</dd>' in whole
    assert "465.00" in whole  # 1 + 2 + ... + 30
    assert "only the oldest" not in whole
    assert len(ids_on(young)) == 23
    assert "only the oldest 10" in young


LARGE = "discrepancies|discrepancy_steps|payments|write_offs"


def test_the_queue_is_not_within_a_form_so_it_can_be_printed(books: Books) -> None:
    page = books.person(Role.CLERK).read("/discrepancies")

    before = page.split('<table class="cards queue">')[0]
    assert before.count("<form") == before.count("</form>")
    assert page.count('name="chosen" form="together"') == 4


def plans_of(books: Books, person: Person, path: str) -> list[str]:
    """How the database answers each statement of a page, with every table as large as it is."""
    asked: list[tuple[str, Any]] = []

    def note(_: Any, cursor: Any, statement: str, given: Any, *more: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            asked.append((statement, given))

    engine = books.shop.services.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        person.read(path)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    plans = []
    with engine.begin() as connection:
        for statement, given in asked:
            if "set_config" in statement:  # what it says holds for those behind it
                connection.exec_driver_sql(statement, given)
                continue
            plans.append(
                "\n".join(row[0] for row in connection.exec_driver_sql("EXPLAIN " + statement, given))
            )
    return plans


def test_no_page_reads_what_is_closed_or_the_payments_as_a_whole(fresh_books: Books) -> None:
    """Ten thousand closed ones beside fifty that are open, and as many payments."""
    many(fresh_books, 10_000, is_closed=True)
    many(fresh_books, 50)
    fresh_books.shop.rows(
        """
        INSERT INTO payments (instance_id, payment_id, payment_link_id, revision, amount, currency, first_origin,
            origin, run_id, stored_at, changed_at, last_verdict, last_told_at)
        SELECT instance_id, payment_id, payment_link_id, 1, 10, 'EUR', 'poll', 'poll', first_run_id, opened_at,
            opened_at, 'new', opened_at
        FROM discrepancies RETURNING 1"""
    )
    fresh_books.shop.rows(
        """
        INSERT INTO write_offs (write_off_id, discrepancy_id, instance_id, amount, currency, reason, status,
            proposed_by, proposed_at, ended_by, ended_at)
        SELECT gen_random_uuid(), discrepancy_id, instance_id, 1, 'EUR', 'fee', 'rejected', 'maya', now(), 'noor',
            now()
        FROM discrepancies RETURNING 1"""
    )
    with fresh_books.shop.services.database.begin() as connection:
        connection.execute(text("ANALYZE"))
    last = fresh_books.shop.rows("SELECT * FROM discrepancies WHERE closed_at IS NULL LIMIT 1")[0]
    person, wrong = fresh_books.person(Role.APPROVER), []

    for path in (
        "/discrepancies",
        "/discrepancies?owner=nobody&currency=EUR&type=missing_at_wix&amount_from=5&aging=1-to-3-days",
        "/discrepancies?approval=mine",
        "/discrepancies?state=closed",
        "/discrepancies?state=resolved&type=total_differs",
        f"/discrepancies?state=any&link={last.payment_link_id}",
        f"/discrepancies?state=any&payment={last.payment_id}",
        f"/discrepancies/{last.instance_id}/{last.discrepancy_id}",
    ):
        for plan in plans_of(fresh_books, person, path):
            wrong += [f"{path}\n{plan}"] if re.search(f"Seq Scan on ({LARGE})", plan) else []

    assert wrong == []


# -- One discrepancy ---------------------------------------------------------------------------------


def test_both_sides_stand_beside_each_other_and_what_differs_is_marked(books: Books) -> None:
    page = books.person().read(path_of(books, "open"))

    [differing] = re.findall(r'<tr class="differs">(.*?)</tr>', page, re.DOTALL)
    assert "Amount" in differing
    assert differing.count("24.00 USD") == 2
    assert "99.00 USD" in differing
    assert "+75.00 USD" in differing
    assert "Compare both with the buyer" in page


def test_what_others_wrote_is_harmless(fresh_books: Books) -> None:
    many(fresh_books, 1)
    fresh_books.discrepancies["one"] = fresh_books.shop.one(
        "SELECT discrepancy_id FROM discrepancies"
    ).discrepancy_id
    clerk = fresh_books.person(Role.CLERK)
    act(fresh_books, clerk, "one", "comment", comment=MARKUP)
    act(fresh_books, clerk, "one", "evidence", evidence='https://example.com/"><script>alert(1)</script>')
    act(fresh_books, clerk, "one", "evidence", evidence="https://example.com/?a=1&b=2")
    refused = act(fresh_books, clerk, "one", "evidence", evidence="javascript:alert(1)")

    page = clerk.read(path_of(fresh_books, "one"))

    assert refused.status_code == 422
    assert "<b onclick" not in page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
    assert "<script>alert" not in page
    assert 'href="javascript' not in page
    assert '<a href="https://example.com/?a=1&amp;b=2" rel="noopener noreferrer nofollow"' in page


def test_an_auditor_sees_no_action_and_may_do_none(books: Books) -> None:
    auditor = books.person(Role.AUDITOR)
    pages = [
        auditor.read("/discrepancies"),
        auditor.read(path_of(books, "open")),
        auditor.read(path_of(books, "proposed")),
    ]

    forms = [
        found for page in pages for found in re.findall(r'<form method="post"[^>]*action="([^"]+)"', page)
    ]
    answers = [act(books, auditor, "open", action).status_code for action in ACTIONS]
    together = auditor.post("/discrepancies", {"action": "investigate"}).status_code

    assert set(forms) == {"/theme", "/sign-out"}
    assert set(answers) == {403}
    assert together == 403
    assert state(books, "open") == "open"


def test_a_clerk_approves_and_rejects_nothing(books: Books) -> None:
    clerk = books.person(Role.CLERK)

    assert act(books, clerk, "proposed", "approve").status_code == 403
    assert act(books, clerk, "proposed", "reject", comment="no").status_code == 403
    assert "/approve" not in clerk.read(path_of(books, "proposed"))


@pytest.mark.parametrize("name", ["maya", "Maya"])
def test_who_proposed_does_not_approve_whatever_the_letters(fresh_books: Books, name: str) -> None:
    many(fresh_books, 1)
    fresh_books.discrepancies["one"] = fresh_books.shop.one(
        "SELECT discrepancy_id FROM discrepancies"
    ).discrepancy_id
    proposer = fresh_books.person(Role.CLERK, Role.APPROVER, name=name)
    act(fresh_books, proposer, "one", "write-off", reason="rounding", amount="1.000")
    fresh_books.shop.rows("UPDATE write_offs SET proposed_by = 'mAYA' RETURNING 1")

    page = proposer.read(path_of(fresh_books, "one"))
    answer = act(fresh_books, proposer, "one", "approve")

    assert "/approve" not in page
    assert "another person has to approve it" in page
    assert answer.status_code == 303
    assert "another person must" in said(proposer)
    assert state(fresh_books, "one") == "open"


def test_nothing_is_done_when_somebody_acted_meanwhile(fresh_books: Books) -> None:
    many(fresh_books, 1)
    fresh_books.discrepancies["one"] = fresh_books.shop.one(
        "SELECT discrepancy_id FROM discrepancies"
    ).discrepancy_id
    slow, fast = fresh_books.person(Role.CLERK), fresh_books.person(Role.CLERK)
    seen = last_step(fresh_books, "one")
    act(fresh_books, fast, "one", "comment", comment="the receipt says 12.00")

    answer = slow.post(
        path_of(fresh_books, "one", "resolve"),
        {"step": seen, "reason": "explained", "comment": "a long text that must not be lost"},
    )

    assert answer.status_code == 422
    assert "look at its history again" in answer.text
    assert "the receipt says 12.00" in answer.text
    assert "a long text that must not be lost" in answer.text
    assert f'name="step" value="{last_step(fresh_books, "one")}"' in answer.text
    assert state(fresh_books, "one") == "open"


def test_what_was_typed_is_not_lost_when_its_form_is_gone(fresh_books: Books) -> None:
    many(fresh_books, 1)
    fresh_books.discrepancies["one"] = fresh_books.shop.one(
        "SELECT discrepancy_id FROM discrepancies"
    ).discrepancy_id
    slow, fast = fresh_books.person(Role.CLERK), fresh_books.person(Role.CLERK)
    seen = last_step(fresh_books, "one")
    act(fresh_books, fast, "one", "resolve", reason="corrected_at_wix")

    answer = slow.post(
        path_of(fresh_books, "one", "write-off"), {"step": seen, "reason": "fee", "comment": "my words"}
    )

    assert answer.status_code == 422
    assert '<textarea id="comment-comment" name="comment" maxlength="2000" rows="2" required' in answer.text
    assert ">my words</textarea>" in answer.text


@pytest.mark.parametrize(
    ("action", "form", "words"),
    [
        ("resolve", {"comment": "x"}, "Choose a reason of the list."),
        ("resolve", {"reason": "rounding"}, "Choose a reason of the list."),
        ("resolve", {"reason": "explained"}, "Say in a comment why both sides are right."),
        ("write-off", {"reason": "explained"}, "Choose a reason of the list."),
        ("write-off", {"reason": "fee", "amount": "1.5e3"}, "The amount cannot be read"),
        ("write-off", {"reason": "fee", "amount": "0.01"}, "all of it is written off or nothing"),
        ("comment", {"comment": "x" * 2_001}, "Write at most 2,000 letters."),
        ("comment", {"comment": "\0"}, "Write at most 2,000 letters."),
        ("evidence", {"evidence": "ftp://example.com"}, "beginning with https://"),
        ("reopen", {"comment": "why"}, "It is open"),
    ],
)
def test_a_form_that_is_wrong_is_shown_again_with_words(
    books: Books, action: str, form: dict[str, str], words: str
) -> None:
    answer = act(books, books.person(Role.CLERK), "open", action, **form)

    assert answer.status_code == 422
    assert words in answer.text.replace("&#39;", "'")
    assert state(books, "open") == "open"


def test_a_form_without_the_step_it_saw_does_nothing(books: Books) -> None:
    clerk = books.person(Role.CLERK)
    for step in ("", "x", "-1", "9" * 30):
        clerk.post(path_of(books, "open", "investigate"), {"step": step})
        assert "load the page anew" in said(clerk)
    assert state(books, "open") == "open"


def test_it_is_given_only_to_who_may_work_there(books: Books) -> None:
    clerk = books.person(Role.CLERK)
    books.person(Role.AUDITOR, name="an auditor")
    books.person(Role.CLERK, name="elsewhere", reach=Reach(frozenset({books.other_instance_id})))
    page = clerk.read(path_of(books, "open"))

    for name in ("an auditor", "elsewhere", "nobody known"):
        assert f'<option value="{name}"' not in page
        act(books, clerk, "open", "assign", owner=name)
        assert "choose one of the list" in said(clerk)


def test_a_write_off_beyond_the_limit_is_not_offered_and_says_why(fresh_books: Books) -> None:
    services = fresh_books.shop.services
    decisions.approve_rules(
        services,
        decisions.propose_rules(services, {"write_off_limits": {"EUR": "0.50"}}, actor="maya", comment=None),
        actor="noor",
    )
    many(fresh_books, 1)
    fresh_books.discrepancies["one"] = fresh_books.shop.one(
        "SELECT discrepancy_id FROM discrepancies"
    ).discrepancy_id
    clerk = fresh_books.person(Role.CLERK)

    page = clerk.read(path_of(fresh_books, "one"))
    answer = act(fresh_books, clerk, "one", "write-off", reason="fee", amount="1.00")

    assert "More is at risk than may be written off" in page
    assert "0.50" in page
    assert "/write-off" not in page
    assert answer.status_code == 422
    assert "at most 0.50 EUR" in answer.text.replace("At most", "at most")


def test_the_whole_life_of_a_discrepancy_by_two_persons(fresh_books: Books) -> None:
    books = fresh_books
    one(books)
    maya = books.person(Role.CLERK, name="maya")
    noor = books.person(Role.APPROVER, name="noor")

    for person, action, form in (
        (maya, "investigate", {}),
        (maya, "assign", {"owner": "noor"}),
        (noor, "comment", {"comment": "the receipt is missing"}),
        (maya, "evidence", {"evidence": "https://example.com/ticket/7"}),
        (maya, "write-off", {"reason": "unrecoverable", "amount": "1.000", "comment": "as agreed"}),
        (noor, "reject", {"comment": "ask once more"}),
        (maya, "write-off", {"reason": "unrecoverable", "amount": "1.000"}),
        (maya, "withdraw", {}),
        (maya, "write-off", {"reason": "unrecoverable", "amount": "1.000"}),
        (noor, "approve", {"comment": "seen"}),
    ):
        answer = act(books, person, "one", action, **form)
        assert (action, answer.status_code) == (action, 303), answer.text
    assert state(books, "one") == "written_off"
    closed = maya.read(path_of(books, "one"))
    assert "Written off" in closed
    assert "/resolve" not in closed
    assert ids_on(maya.read("/discrepancies?state=written_off")) == {books.discrepancies["one"]}
    assert ids_on(maya.read("/discrepancies")) == set()

    act(books, noor, "one", "reopen", comment="the buyer wrote")
    act(books, maya, "one", "resolve", reason="explained", comment="both are right")

    assert state(books, "one") == "resolved"
    kinds = [row.kind for row in books.shop.rows("SELECT kind FROM discrepancy_steps ORDER BY step_id")]
    assert kinds == [
        *("opened", "investigated", "assigned", "commented", "evidence_added", "write_off_proposed"),
        *("write_off_rejected", "write_off_proposed", "write_off_withdrawn", "write_off_proposed"),
        *("write_off_approved", "reopened", "resolved"),
    ]
    assert books.shop.rows("SELECT 1 FROM check_requests"), "a reopened one is checked again"
    page = maya.read(path_of(books, "one"))
    for words in ("the buyer wrote", "ask once more", "as agreed", "Both sides are right"):
        assert words in page
    asked = [row.action for row in books.shop.rows("SELECT action FROM actions ORDER BY action_id")]
    assert asked.count("discrepancies.write_off") == 3
    assert not [row for row in books.shop.rows("SELECT detail::text AS d FROM actions") if "agreed" in row.d]


# -- Several at once ---------------------------------------------------------------------------------


def marked(books: Books, *ids: UUID) -> list[str]:
    rows = books.shop.rows(
        """
        SELECT d.instance_id, d.discrepancy_id, max(s.step_id) AS step FROM discrepancies d
        JOIN discrepancy_steps s USING (discrepancy_id) WHERE d.discrepancy_id = ANY(:ids) GROUP BY 1, 2""",
        ids=list(ids),
    )
    return [f"{row.instance_id}/{row.discrepancy_id}/{row.step}" for row in rows]


def everything(books: Books) -> list[UUID]:
    return [
        row.discrepancy_id for row in books.shop.rows("SELECT discrepancy_id FROM discrepancies ORDER BY 1")
    ]


def test_several_are_resolved_at_once_and_what_was_not_is_told(fresh_books: Books) -> None:
    many(fresh_books, 4)
    clerk, ids = fresh_books.person(Role.CLERK), everything(fresh_books)
    chosen = marked(fresh_books, ids[0], ids[2], ids[3])
    fresh_books.discrepancies["one"] = ids[0]
    act(fresh_books, clerk, "one", "comment", comment="after it was marked")
    fresh_books.discrepancies["one"] = ids[1]
    act(fresh_books, clerk, "one", "write-off", reason="fee")
    chosen += [*marked(fresh_books, ids[1]), f"{fresh_books.instance_id}/{uuid4()}/1"]

    answer = clerk.post(
        "/discrepancies?currency=EUR", {"chosen": chosen, "action": "resolve", "reason": "test_data"}
    )

    told = said(clerk)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/discrepancies?currency=EUR")
    states = {row.discrepancy_id: row.state for row in fresh_books.shop.rows("SELECT * FROM discrepancies")}
    assert states == {ids[0]: "open", ids[1]: "open", ids[2]: "resolved", ids[3]: "resolved"}
    assert "Resolve: 2 of 5." in told
    assert f"{str(ids[0])[:8]}: Something happened to it" in told
    assert f"{str(ids[1])[:8]}: A write-off of it waits" in told
    assert "There is no such discrepancy" in told


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({}, "Choose what to do"),
        ({"action": "write_off", "reason": "fee"}, "Choose what to do"),
        ({"action": "approve"}, "Choose what to do"),
        ({"action": "investigate"}, "Mark at least one"),
        ({"action": "investigate", "chosen": "x"}, "cannot be read"),
        ({"action": "investigate", "chosen": ["a/b/c"]}, "cannot be read"),
        ({"action": "resolve", "chosen": "ALL"}, "Choose a reason"),
        ({"action": "resolve", "reason": "explained", "chosen": "ALL"}, "both sides are right"),
        ({"action": "comment", "comment": "x" * 3_000, "chosen": "ALL"}, "at most 2,000"),
        ({"action": "comment", "chosen": "ALL"}, "Write a comment"),
    ],
)
def test_a_form_for_several_that_is_wrong_is_shown_again(
    books: Books, form: dict[str, str | list[str]], words: str
) -> None:
    chosen = marked(books, books.discrepancies["open"], books.discrepancies["other"])
    if form.get("chosen") == "ALL":
        form = form | {"chosen": chosen}

    answer = books.person(Role.CLERK).post("/discrepancies", form)

    assert answer.status_code == 422
    assert words in answer.text
    if form.get("chosen") == chosen:
        assert answer.text.count(" checked>") == 2
    assert state(books, "open") == "open"


def test_at_most_a_hundred_at_once(books: Books) -> None:
    chosen = [f"{books.instance_id}/{uuid4()}/1" for _ in range(101)]

    answer = books.person(Role.CLERK).post("/discrepancies", {"action": "investigate", "chosen": chosen})

    assert answer.status_code == 422
    assert "At most 100" in answer.text


def test_those_of_another_instance_are_not_touched_by_a_forged_mark(books: Books) -> None:
    reach = Reach(frozenset({books.other_instance_id}))
    person = books.person(Role.CLERK, reach=reach)
    [mine] = marked(books, books.discrepancies["open"])
    step = mine.rsplit("/", 1)[1]

    open_one = person.post("/discrepancies", {"action": "investigate", "chosen": mine})
    disguised = f"{books.other_instance_id}/{books.discrepancies['open']}/{step}"
    person.post("/discrepancies", {"action": "investigate", "chosen": disguised})

    assert open_one.status_code == 404
    assert "There is no such discrepancy" in said(person)
    assert state(books, "open") == "open"


def test_each_instance_has_a_line_of_what_was_done_to_its_own(books: Books) -> None:
    """Its auditor sees that line, with the ids, and none of another instance."""
    mine = [books.discrepancies["open"], books.discrepancies["investigating"]]
    other = books.discrepancies["other"]
    chosen = [f"{books.instance_id}/{one}/1" for one in mine] + [f"{books.other_instance_id}/{other}/1"]
    before = books.shop.one("SELECT coalesce(max(action_id), 0) AS n FROM actions").n

    books.person(Role.CLERK).post(
        "/discrepancies",
        {"action": "assign", "owner": "ask maya@example.com", "chosen": chosen},
    )

    rows = books.shop.rows("SELECT * FROM actions WHERE action_id > :n ORDER BY action_id", n=before)
    assert {(row.action, row.status) for row in rows} == {("discrepancies.together", 303)}
    assert "maya@" not in str(rows)
    of = {row.instance_id: row for row in rows}
    assert set(of) == {None, books.instance_id, books.other_instance_id}
    assert of[books.instance_id].detail["discrepancies"] == ", ".join(map(str, mine))
    assert of[books.instance_id].detail["action"] == "assign"
    assert of[books.other_instance_id].object == str(other)
    auditor = books.person(reach=Reach(frozenset({books.other_instance_id})))
    page = auditor.read("/audit?action=discrepancies.together")
    assert str(other) in page
    assert str(mine[1]) not in page


def test_when_the_database_goes_away_midway_it_is_told_what_was_done(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(fresh_books, 4)
    clerk, ids = fresh_books.person(Role.CLERK), everything(fresh_books)
    decide, times = decisions.decide, iter((True, True, False))

    def decide_or_not(*given: Any, **more: Any) -> None:
        if not next(times):
            raise StoreUnavailable("away")
        decide(*given, **more)

    monkeypatch.setattr(decisions, "decide", decide_or_not)
    chosen = marked(fresh_books, *ids)
    answer = clerk.post("/discrepancies", {"action": "investigate", "chosen": chosen})

    told = said(clerk)
    assert answer.status_code == 303
    assert "Investigate: 2 of 4." in told
    assert f"{chosen[2].split('/')[1][:8]} may or may not be done, and the 1 after it was not done" in told
    states = [row.state for row in fresh_books.shop.rows("SELECT state FROM discrepancies")]
    assert sorted(states) == ["investigating"] * 2 + ["open"] * 2


def test_who_resolves_several_is_warned_of_what_persists_as_who_resolves_one_is(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(fresh_books, 2)
    rows = fresh_books.shop.rows("SELECT type FROM discrepancies WHERE closed_at IS NULL")
    clerk, kinds = fresh_books.person(Role.CLERK), {row.type for row in rows}
    monkeypatch.setattr(screen, "PERSISTING", frozenset(sorted(kinds)[:1]))

    page = html.unescape(clerk.read("/discrepancies"))

    assert screen.PERSISTS in page
    assert f"What differs as “{screen.type_words(min(kinds))}” mostly stays so at Wix." in page
    monkeypatch.setattr(screen, "PERSISTING", frozenset())
    assert screen.PERSISTS not in html.unescape(clerk.read("/discrepancies"))


def test_several_are_given_to_somebody(fresh_books: Books) -> None:
    many(fresh_books, 3)
    clerk = fresh_books.person(Role.CLERK, name="maya")
    fresh_books.person(Role.CLERK, name="noor")

    clerk.post(
        "/discrepancies",
        {"action": "assign", "owner": "noor", "chosen": marked(fresh_books, *everything(fresh_books))},
    )

    assert said(clerk) == "Assign: 3 of 3."
    assert {row.owner for row in fresh_books.shop.rows("SELECT owner FROM discrepancies")} == {"noor"}
