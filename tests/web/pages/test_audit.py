"""The audit log: who asked for what, for whom it is to be seen, and page by page."""

from __future__ import annotations

import re
from urllib.parse import quote
from uuid import uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from processor.domain.access import EVERYWHERE, Reach, Role
from processor.store import accounts, actions
from processor.store.screens import audit as store
from processor.store.screens import sieve
from processor.web.pages.screens.audit import action_words
from tests.web.pages.books import MARKUP, Books, Person
from tests.web.pages.test_access import routes
from tests.web.pages.test_creating import a_form
from tests.web.pages.test_runs import ODD, plans_of


def test_what_somebody_did_is_shown_with_what_it_was_about(books: Books) -> None:
    operator = books.person(Role.OPERATOR, name="ida")
    event = books.shop.rows(
        "SELECT * FROM webhook_events WHERE instance_id = :id LIMIT 1", id=books.instance_id
    )[0]
    operator.post(f"/events/{event.instance_id}/{event.event_id}/replay")
    operator.post(f"/runs/{books.instance_id}/backfills", {"since": MARKUP})

    page = books.person().read("/audit?actor=ida")

    assert "Replayed an event" in page
    assert f'href="/events/{event.instance_id}/{event.event_id}"' in page
    assert "Asked for a backfill" in page
    assert "<b onclick" not in page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
    assert 'title="HTTP 303">Done<' in page


def test_what_an_action_made_is_named_and_led_to(fresh_books: Books) -> None:
    books, person = fresh_books, fresh_books.person(Role.OPERATOR, Role.CLERK, name="ida")
    operator_path = f"/links/{books.instance_id}/create"
    made = person.post(operator_path, a_form(reference=str(uuid4())))
    link_id = made.headers["Location"].rpartition("/")[2]
    document = '{"write_off_limits": {"USD": "5.00"}}'
    proposed = person.post("/rules", {"document": document, "comment": "small ones"})
    assert proposed.headers["Location"] == "/rules/1"

    page = books.person().read("/audit?actor=ida")

    assert f'href="/links/{books.instance_id}/{link_id}" title="{link_id}"' in page
    assert '<a href="/rules/1">Version 1</a>' in page
    person.post(operator_path, a_form(reference=""))
    rows = books.shop.rows(
        "SELECT object, status FROM actions WHERE action = 'links.create' ORDER BY action_id"
    )
    assert [tuple(row) for row in rows] == [(link_id, 303), (None, 422)]


def test_what_an_action_was_about_stays_as_it_was(fresh_books: Books) -> None:
    shop = fresh_books.shop
    with shop.services.database.begin() as connection:
        now = shop.services.now()
        number = actions.note(connection, None, "links.note", request_id="r", now=now, about="this")
        actions.answer(connection, number, 303, made="other")
        actions.answer(connection, number, 500, made="other")
    assert [tuple(row) for row in shop.rows("SELECT object, status FROM actions WHERE request_id = 'r'")] == [
        ("this", 303)
    ]
    for change in ("object = 'other', status = 200", "status = 200", "object = NULL"):
        with pytest.raises(IntegrityError, match="kept as they were"):
            shop.rows(f"UPDATE actions SET {change} WHERE request_id = 'r' RETURNING 1")
    with shop.services.database.begin() as connection:
        actions.note(connection, None, "links.note", request_id="s", now=shop.services.now(), about="this")
    with pytest.raises(IntegrityError, match="kept as they were"):
        shop.rows("UPDATE actions SET object = 'other', status = 200 WHERE request_id = 's' RETURNING 1")


def test_filling_in_a_form_of_rules_is_no_action_but_trying_to_without_the_role_is(
    fresh_books: Books,
) -> None:
    clerk, auditor = fresh_books.person(Role.CLERK), fresh_books.person(Role.AUDITOR)

    assert clerk.post("/rules/draft", {"step": "add_tolerance"}).status_code in (200, 422)
    assert auditor.post("/rules/draft", {"step": "add_tolerance"}).status_code == 403

    rows = fresh_books.shop.rows("SELECT status FROM actions WHERE action = 'rules.draft'")
    assert [row.status for row in rows] == [403]


def test_a_report_is_called_by_its_name(books: Books) -> None:
    day = books.shop.services.now().date()
    books.person(name="rhea").get(f"/reports/reconciliation_summary/csv?since={day}&until={day}")

    assert ">Reconciliation summary<" in books.person().read("/audit?actor=rhea")


def test_a_failed_sign_in_is_shown(books: Books) -> None:
    books.nobody().post("/sign-in", {"name": "x", "password": "y"})

    page = books.person().read("/audit?action=sign_in_failed")

    assert "nobody signed in" in page
    assert 'title="HTTP 401">Refused<' in page


def test_who_sees_some_instances_sees_what_is_about_them_alone(books: Books) -> None:
    operator = books.person(Role.OPERATOR, name="omar")
    operator.post(f"/runs/{books.instance_id}/sweep")
    operator.post(f"/runs/{books.other_instance_id}/check", {"link": "x"})
    operator.post("/jobs/requeue", {"job": "x"})

    page = books.person(reach=Reach(frozenset({books.other_instance_id}))).read("/audit?actor=omar")
    table = page[page.index("<tbody>") :]

    assert "Asked for a check of a link" in table
    assert "Asked for a sweep" not in table
    assert "Tried a failed job again" not in table
    assert str(books.instance_id)[:8] not in page


def test_who_sees_some_instances_does_not_learn_whose_accounts_there_are(fresh_books: Books) -> None:
    books = fresh_books
    omar = books.person(Role.OPERATOR, name="omar")
    for _ in range(3):
        omar.post(f"/runs/{books.instance_id}/sweep")
    some = books.person(Role.AUDITOR, reach=Reach(frozenset({books.other_instance_id})))
    every = books.person(Role.AUDITOR)

    def table_of(person: Person, name: str) -> str:
        page = person.read(f"/audit?actor={name}")
        return page[page.index("</form>", page.index('class="filters"')) :]

    assert table_of(some, "omar") == table_of(some, "nobody-of-this-name")
    assert "wrong-words" not in some.read("/audit?actor=nobody-of-this-name")
    assert "Nobody has an account of this name." in every.read("/audit?actor=nobody-of-this-name")
    assert "Asked for a sweep" in table_of(every, "omar")


def test_how_far_back_was_looked_says_nothing_of_what_one_may_not_see(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = fresh_books
    omar = books.person(Role.OPERATOR, name="omar")
    for _ in range(6):
        omar.post(f"/runs/{books.instance_id}/sweep")
    some = Reach(frozenset({books.other_instance_id}))
    defaults = sieve.sift.__kwdefaults__
    assert defaults is not None
    monkeypatch.setattr(sieve.sift, "__kwdefaults__", {**defaults, "looked_max": 3})

    with books.shop.services.database.begin() as connection:
        found = accounts.named(connection, "omar")
        assert found is not None
        of_omar = store.actions(connection, some, account_id=found[0].account_id)
        of_nobody = store.actions(connection, some, is_nobody=True)

    assert of_omar == of_nobody
    assert of_omar.looked_to is not None


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["actor", "action", "since", "until"])
def test_odd_filters_are_told_beside_them(books: Books, name: str, odd: str) -> None:
    page = books.person().read(f"/audit?{name}={quote(odd)}")

    assert "wrong-words" in page
    assert "<b>" not in page


def test_every_action_has_words(books: Books) -> None:
    for method, rule, needs in routes(books.app):
        if needs.permission is not None and (method == "POST" or needs.is_recorded):
            words = action_words(rule.endpoint)
            assert words[0].isupper(), rule.endpoint
            assert "_" not in words, rule.endpoint
            assert "." not in words, rule.endpoint


def test_pages_of_the_log_hold_every_action_once(fresh_books: Books) -> None:
    books, shop = fresh_books, fresh_books.shop
    with shop.services.database.begin() as connection:
        now = shop.services.now()
        for number in range(120):
            actions.note(connection, None, "signed_in", request_id=f"r{number:03}-{number}", now=now)
    person, seen, path = books.person(), [], "/audit"
    while path:
        page = person.read(path)
        seen += re.findall(r'title="(r\d{3}-\d+)"', page)
        found = re.search(r'rel="next" href="([^"]+)"', page)
        path = found[1].replace("&amp;", "&") if found else ""

    assert seen == [f"r{number:03}-{number}" for number in range(119, -1, -1)]


@pytest.mark.parametrize("action", [None, "runs.sweep"])
def test_the_log_is_read_from_its_index(books: Books, action: str | None) -> None:
    plans = plans_of(books, lambda connection: store.actions(connection, EVERYWHERE, action=action))

    assert plans
    assert all("ix_actions_" in one and "Seq Scan" not in one for one in plans), plans
