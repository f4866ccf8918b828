"""Who may open what: every route, every role, of the own instance, of another and of nobody."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from werkzeug.routing import Rule

from processor.domain.access import PERMISSIONS, Permission, Reach, Role
from processor.web.pages import access, signing
from processor.web.pages.signing import NOBODY, hasher, safe_next, verify
from tests.web.pages.books import Books, Person, arguments, names_of

OK = range(200, 500)
FORBIDDEN, NOT_FOUND = 403, 404


def routes(app: Flask) -> Iterator[tuple[str, Rule, access.Needs]]:
    """Method, rule and needs of everything that can be asked for."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.endpoint):
        if rule.endpoint == "static":
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule, access.needs_of(app, rule.endpoint)


def path_of(app: Flask, rule: Rule, values: dict[str, Any]) -> str:
    missing = rule.arguments - values.keys()
    assert not missing, f"add {missing} to tests.web.pages.books.arguments"
    with app.test_request_context():
        return app.url_for(rule.endpoint, **{name: values[name] for name in rule.arguments})


def ask(person: Person, method: str, path: str) -> tuple[int, str, str]:
    answer = person.get(path) if method == "GET" else person.post(path)
    # An export may be no text; what it holds is looked at in test_exports.
    return answer.status_code, answer.headers.get("Location", ""), answer.get_data().decode(errors="replace")


def test_there_are_routes_to_test(books: Books) -> None:
    assert len(list(routes(books.app))) > 10


def test_every_route_asks_for_what_it_needs(books: Books) -> None:
    app, own = books.app, arguments(books)
    wrong = []
    for method, rule, needs in routes(app):
        if rule.endpoint == "signing.sign_out":
            continue
        path = path_of(app, rule, own)
        for role in Role:
            person = books.person(role, personal=True)
            status, _, text = ask(person, method, path)
            may = needs.permission is None or needs.permission in PERMISSIONS[role]
            if rule.endpoint == "signing.take_sign_in":
                assert status in (401, 429)
            elif may and (status not in OK or status in (401, FORBIDDEN, NOT_FOUND, 405)):
                wrong.append(f"{role} {method} {path}: {status} {text[:300]}")
            if not may and status != FORBIDDEN:
                wrong.append(f"{role} {method} {path}: {status} instead of 403")
    assert wrong == []


def test_nothing_of_another_instance_is_found(books: Books) -> None:
    """Somebody of the other shop, with every right there is."""
    app, own = books.app, arguments(books)
    reach = Reach(frozenset({books.other_instance_id}))
    person = books.person(Role.CLERK, Role.APPROVER, Role.OPERATOR, reach=reach, personal=True)
    mine, wrong = names_of(books), []
    for method, rule, needs in routes(app):
        if needs.permission is None or rule.endpoint == "signing.sign_out":
            continue
        path = path_of(app, rule, own)
        status, _, text = ask(person, method, path)
        if "instance_id" in rule.arguments and status != NOT_FOUND:
            wrong.append(f"{method} {path}: {status} instead of 404")
        if found := [name for name in mine if name in text.replace(path, "")]:
            wrong.append(f"{method} {path}: shows {found}")
        if status >= 500:
            wrong.append(f"{method} {path}: {status}")
    assert wrong == []


def test_what_is_of_another_instance_is_not_found_under_the_own_one(books: Books) -> None:
    """The instance in the path is the own one, everything else of the other's."""
    app = books.app
    mixed = arguments(books) | {"instance_id": books.other_instance_id}
    person = books.person(
        Role.CLERK,
        Role.APPROVER,
        Role.OPERATOR,
        reach=Reach(frozenset({books.other_instance_id})),
        personal=True,
    )
    mine, wrong = names_of(books), []
    for method, rule, _ in routes(app):
        if not {"instance_id"} < rule.arguments:
            continue
        path = path_of(app, rule, mixed)
        status, _, text = ask(person, method, path)
        shown = [name for name in mine if name in text.replace(path, "")]
        if status not in (NOT_FOUND, 303) or shown:
            wrong.append(f"{method} {path}: {status} {shown}")
    assert wrong == []


def test_nobody_gets_further_than_the_door(books: Books) -> None:
    app, own = books.app, arguments(books)
    wrong = []
    for method, rule, needs in routes(app):
        if needs.permission is None:
            continue
        path = path_of(app, rule, own)
        status, where, _ = ask(books.nobody(), method, path)
        if status != 303 or not where.startswith("/sign-in"):
            wrong.append(f"{method} {path}: {status} {where}")
    assert wrong == []


def test_every_change_asks_for_its_token_and_is_written_down(books: Books) -> None:
    app, own = books.app, arguments(books)
    person = books.person(Role.CLERK, Role.APPROVER, Role.OPERATOR)
    wrong, filling_in = [], set()
    for method, rule, needs in routes(app):
        if method == "GET" or rule.endpoint == "signing.sign_out":
            continue
        path = path_of(app, rule, own)
        before = books.shop.one("SELECT count(*) AS n FROM actions").n
        if person.client.post(path).status_code != 400:
            wrong.append(f"{path} takes a form without a token")
        if needs.permission is not None:
            if books.shop.one("SELECT count(*) AS n FROM actions").n != before:
                wrong.append(f"{path} writes down what it did not do")
            person.post(path)
            if not needs.records("POST"):
                filling_in.add(rule.endpoint)
                if books.shop.one("SELECT count(*) AS n FROM actions").n != before:
                    wrong.append(f"{path} is written down")
                continue
            row = books.shop.rows("SELECT * FROM actions ORDER BY action_id DESC LIMIT 1")[0]
            if (row.action, row.status is None, row.actor is None) != (rule.endpoint, False, False):
                wrong.append(f"{path} is not written down: {row}")
    assert wrong == []
    assert filling_in == {"rules.draft"}


def test_what_one_may_not_do_is_written_down_and_not_done(books: Books) -> None:
    auditor = books.person(Role.AUDITOR)
    path = f"/discrepancies/{books.instance_id}/{books.discrepancies['open']}/comment"

    assert auditor.post(path, {"comment": "not mine to say"}).status_code == FORBIDDEN
    row = books.shop.one("SELECT * FROM actions ORDER BY action_id DESC LIMIT 1")
    assert (row.action, row.status, row.object) == (
        *("discrepancies.comment", FORBIDDEN, str(books.discrepancies["open"])),
    )
    assert "not mine" not in str(row)
    assert books.shop.rows("SELECT 1 FROM discrepancy_steps WHERE comment LIKE 'not mine%'") == []

    beyond = books.person(Role.AUDITOR, reach=Reach(frozenset({books.other_instance_id})))
    assert beyond.post(path, {"comment": "nor mine"}).status_code == FORBIDDEN
    last = books.shop.one("SELECT action_id FROM actions ORDER BY action_id DESC LIMIT 1")
    assert last.action_id == row.action_id, "nobody writes into the log of another instance"


def test_an_auditor_changes_nothing() -> None:
    assert PERMISSIONS[Role.AUDITOR] == {Permission.READ}


# -- Signing in --------------------------------------------------------------------------------------


def give_password(books: Books, name: str, password: str) -> None:
    with books.shop.services.database.begin() as connection:
        from processor.store import accounts

        found = accounts.named(connection, name)
        assert found is not None
        accounts.set_password(
            connection, found[0].account_id, hasher.hash(password), books.shop.services.now()
        )


def test_one_signs_in_with_name_and_password_and_out_again(fresh_books: Books) -> None:
    books = fresh_books
    books.person(Role.CLERK, name="maya")
    give_password(books, "maya", "a long password")
    nobody = books.nobody()

    wrong = nobody.post("/sign-in", {"name": "maya", "password": "another password"})
    answer = nobody.post("/sign-in", {"name": " Maya ", "password": "a long password", "next": "/account"})

    assert wrong.status_code == 401
    assert "do not belong together" in wrong.text
    assert (answer.status_code, answer.headers["Location"]) == (303, "/account")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    nobody._csrf = ""
    assert "maya" in nobody.read("/account")
    assert nobody.post("/sign-out").status_code == 303
    assert nobody.get("/account").status_code == 303
    actions = [row.action for row in books.shop.rows("SELECT action FROM actions ORDER BY action_id")]
    assert actions == ["sign_in_failed", "signed_in", "signing.sign_out"]


def test_a_stolen_session_ends_with_signing_out(fresh_books: Books) -> None:
    person = fresh_books.person()
    with person.client.session_transaction() as session:
        kept = dict(session)
    person.post("/sign-out")
    thief = fresh_books.nobody()
    with thief.client.session_transaction() as session:
        session.update(kept)

    assert thief.get("/").status_code == 303


@pytest.mark.parametrize(
    ("gaps", "is_in"),
    [
        ([timedelta(minutes=59)], True),
        ([timedelta(minutes=61)], False),
        ([timedelta(minutes=50)] * 14, True),
        ([timedelta(minutes=50)] * 15, False),
    ],
)
def test_a_session_ends_after_an_hour_alone_and_twelve_in_all(
    fresh_books: Books, gaps: list[timedelta], is_in: bool
) -> None:
    person = fresh_books.person()

    statuses = []
    for gap in gaps:
        fresh_books.shop.pass_time(gap)
        statuses.append(person.get("/").status_code)

    assert (statuses[-1] == 200) is is_in


def test_a_disabled_account_is_out_at_once(fresh_books: Books) -> None:
    from processor.store import accounts

    person = fresh_books.person(Role.CLERK, name="maya")
    assert person.get("/").status_code == 200
    with fresh_books.shop.services.database.begin() as connection:
        found = accounts.named(connection, "maya")
        assert found is not None
        accounts.change(
            connection,
            found[0],
            roles=found[0].roles,
            reach=found[0].reach,
            sees_personal=False,
            is_disabled=True,
            now=fresh_books.shop.services.now(),
        )

    assert person.get("/").status_code == 303


def test_guessing_is_throttled_and_a_right_password_too(fresh_books: Books) -> None:
    fresh_books.person(Role.CLERK, name="maya")
    give_password(fresh_books, "maya", "a long password")
    nobody = fresh_books.nobody()

    answers = [
        nobody.post("/sign-in", {"name": "maya", "password": f"guess {n}"}).status_code for n in range(10)
    ]
    late = nobody.post("/sign-in", {"name": "maya", "password": "a long password"})

    assert answers == [401] * 8 + [429] * 2
    assert late.status_code == 429


def test_being_throttled_is_written_down_once_and_not_for_each_try(fresh_books: Books) -> None:
    fresh_books.person(Role.CLERK, name="maya")
    give_password(fresh_books, "maya", "a long password")
    nobody = fresh_books.nobody()

    for n in range(14):
        nobody.post("/sign-in", {"name": "maya", "password": f"guess {n}"})
    for n in range(30):
        nobody.post("/sign-in", {"name": f"my secret password {n}", "password": "x"})

    rows = fresh_books.shop.rows(
        "SELECT actor, detail, status FROM actions WHERE action = 'sign_in_throttled' ORDER BY action_id"
    )
    assert [(row.actor, row.detail["limit"], row.status) for row in rows] == [
        ("maya", "8 per 10 minutes for one name from one network", 429),
        (None, "20 per 10 minutes from one network", 429),
    ]
    failed = fresh_books.shop.one("SELECT count(*) AS rows FROM actions WHERE action = 'sign_in_failed'")
    assert failed.rows == 20, "what is tried is bounded by the throttle itself"
    assert "secret" not in str(fresh_books.shop.rows("SELECT * FROM actions"))
    assert "Was kept from trying to sign in" in fresh_books.person(Role.AUDITOR).read("/audit")


def test_a_typed_name_that_is_none_is_not_written_down(fresh_books: Books) -> None:
    fresh_books.nobody().post("/sign-in", {"name": "my secret password", "password": "x"})

    [row] = fresh_books.shop.rows("SELECT * FROM actions")
    assert "secret" not in str(row)


def test_a_password_is_changed_by_who_knows_the_old_one(fresh_books: Books) -> None:
    person = fresh_books.person(Role.CLERK, name="maya")
    give_password(fresh_books, "maya", "a long password")
    person = fresh_books.nobody()
    person.post("/sign-in", {"name": "maya", "password": "a long password"})
    person._csrf = ""

    for old, new, again in (
        ("wrong password!", "another password", "another password"),
        ("a long password", "another password", "another passwort"),
        ("a long password", "short", "short"),
        ("a long password", "aaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaa"),
    ):
        person.post("/account/password", {"old": old, "new": new, "again": again})
        assert 'class="notice bad"' in person.read("/account")
    person.post(
        "/account/password",
        {"old": "a long password", "new": "another password", "again": "another password"},
    )

    assert "The password is changed" in person.read("/account")
    nobody = fresh_books.nobody()
    assert nobody.post("/sign-in", {"name": "maya", "password": "another password"}).status_code == 303


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("/payments?currency=USD", "/payments?currency=USD"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\nb", "/"),
        (None, "/"),
    ],
)
def test_signing_in_leads_to_our_own_pages_alone(text: str | None, where: str) -> None:
    assert safe_next(text) == where


# -- Around every page -------------------------------------------------------------------------------


def test_every_page_has_a_strict_policy_and_is_kept_nowhere(books: Books) -> None:
    person = books.person()
    for path in ("/", "/account", "/no-such-page"):
        headers = person.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_without_redis_one_signs_in_all_the_same(books: Books) -> None:
    from processor.web.pages.throttle import Throttle

    throttle = Throttle("redis://127.0.0.1:1/0")

    assert [throttle.may("2 per 1 minute", "x") for _ in range(3)] == [True, True, False]


def test_who_wants_a_page_is_led_to_it_after_signing_in(books: Books) -> None:
    answer = books.nobody().get("/account?a=1")

    assert answer.headers["Location"] == "/sign-in?next=/account?a%3D1"


def test_a_part_that_htmx_asks_for_leads_the_whole_page_to_the_door(books: Books) -> None:
    answer = books.nobody().get("/account", headers={"HX-Request": "true"})

    assert answer.status_code == 401
    assert answer.headers["HX-Redirect"] == "/sign-in"


def test_right_passwords_count_for_nothing(fresh_books: Books) -> None:
    fresh_books.person(Role.CLERK, name="maya")
    give_password(fresh_books, "maya", "a long password")
    form = {"name": "maya", "password": "a long password"}

    assert [fresh_books.nobody().post("/sign-in", form).status_code for _ in range(12)] == [303] * 12


def test_others_lock_nobody_out_of_a_browser_that_is_known(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "BY_NAME", "3 per 1 hour")
    fresh_books.person(Role.CLERK, name="maya")
    give_password(fresh_books, "maya", "a long password")
    own = fresh_books.nobody()
    form = {"name": "maya", "password": "a long password"}
    assert own.post("/sign-in", form).status_code == 303
    own._csrf = ""
    own.post("/sign-out")
    own._csrf = ""

    guesses = [
        fresh_books.nobody().post(
            "/sign-in",
            {"name": "maya", "password": "a guess that is wrong"},
            environ_base={"REMOTE_ADDR": f"192.0.2.{number}"},
        )
        for number in range(5)
    ]
    stranger = fresh_books.nobody().post("/sign-in", form, environ_base={"REMOTE_ADDR": "192.0.2.77"})

    assert guesses[-1].status_code == 429
    assert stranger.status_code == 429
    assert own.post("/sign-in", form).status_code == 303


def test_a_network_of_ipv6_is_one_place(fresh_books: Books) -> None:
    answers = [
        fresh_books.nobody()
        .post(
            "/sign-in",
            {"name": f"person {number}", "password": "wrong"},
            environ_base={"REMOTE_ADDR": f"2001:db8::{number:x}"},
        )
        .status_code
        for number in range(1, 24)
    ]

    assert answers == [401] * 20 + [429] * 3


def test_a_password_changed_while_it_is_checked_lets_nobody_in(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_books.person(Role.CLERK, name="maya")
    give_password(fresh_books, "maya", "a long password")
    verify = signing.verify

    def slow(password_hash: str | None, password: str) -> bool:
        is_right = verify(password_hash, password)
        give_password(fresh_books, "maya", "another password")
        return is_right

    monkeypatch.setattr(signing, "verify", slow)
    nobody = fresh_books.nobody()

    answer = nobody.post("/sign-in", {"name": "maya", "password": "a long password"})

    assert answer.status_code == 401
    assert nobody.get("/account").status_code == 303


def test_who_has_no_password_is_checked_as_long_as_everybody() -> None:
    assert not hasher.check_needs_rehash(NOBODY)
    assert not verify(None, "whatever was said")
