"""The rules of reconciliation on the pages: one person proposes, another approves."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest

from processor import decisions
from processor.domain.access import Reach, Role
from processor.domain.rules import BUILT_IN, parse
from processor.web.pages.screens import rules
from tests.web.pages.books import MARKUP, Books, Person

DOCUMENT: dict[str, Any] = {
    "tolerances": [
        {"id": "cents", "type": "total_differs", "currency": "USD", "amount": "0.05", "days": "3"},
        {"id": "small", "type": "amount_differs", "percent": "0.5"},
    ],
    "write_off_limits": {"USD": "250.00", "JPY": "20000"},
    "assumptions": {"total_falls_on_refund": True, "split_counts_once": False},
}


def propose(person: Person, document: object, comment: str = "") -> int:
    """The version that was proposed."""
    text = document if isinstance(document, str) else json.dumps(document)
    answer = person.post("/rules", {"document": text, "comment": comment})
    assert answer.status_code == 303, re.findall('wrong-words"[^>]*>(.*?)<', answer.text)
    return int(answer.headers["Location"].rsplit("/", 1)[1])


def said(person: Person) -> str:
    return " ".join(
        re.findall(r'<p class="notice \w+" role="\w+">(.*?)</p>', person.read("/account"), re.DOTALL)
    )


def in_force(books: Books) -> int | None:
    found = books.shop.one("SELECT max(version) AS version FROM rule_set_approvals").version
    return None if found is None else int(found)


def test_the_rules_in_force_are_shown_as_tables(books: Books) -> None:
    page = books.person().read("/rules")

    assert "100.00" in page
    assert "10,000" in page
    assert "limits of 2026" in page
    assert "Does the total received of a payment link fall" in page
    assert "Propose rules" not in page


def test_without_any_the_built_in_rules_are_said_to_be_in_force(fresh_books: Books) -> None:
    page = fresh_books.person(Role.CLERK).read("/rules")

    assert "The built-in rules, as nobody set any" in page
    assert "No rules were set." in page
    assert "Propose rules" in page


def test_one_proposes_and_another_puts_in_force(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, Role.APPROVER, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")

    version = propose(maya, DOCUMENT, "as agreed in November")
    own = maya.read(f"/rules/{version}")
    maya.post(f"/rules/{version}/approve", {"in_force": "0"})
    refused = said(maya)
    assert in_force(fresh_books) is None
    page = noor.read(f"/rules/{version}")
    noor.post(f"/rules/{version}/approve", {"in_force": "0"})

    assert "another person has to approve them" in own
    assert "another person must" in refused
    assert f"Put version {version} in force" in page
    assert "as agreed in November" in page
    assert "Up to 0.05 USD, for 3 days: needs no decision." in page
    assert "Up to 0.5 % of what is booked: needs no decision." in page
    assert in_force(fresh_books) == version
    assert "In force" in noor.read(f"/rules/{version}")


def test_another_way_to_write_the_name_is_no_other_person(fresh_books: Books) -> None:
    version = decisions.propose_rules(fresh_books.shop.services, DOCUMENT, actor="mAYA", comment=None)
    maya = fresh_books.person(Role.APPROVER, name="Maya")

    page = maya.read(f"/rules/{version}")
    maya.post(f"/rules/{version}/approve", {"in_force": "0"})

    assert "/approve" not in page
    assert "another person must" in said(maya)
    assert in_force(fresh_books) is None


def test_nothing_comes_into_force_when_other_rules_did_meanwhile(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")
    first = propose(maya, DOCUMENT)
    second = propose(maya, {"write_off_limits": {"USD": "1.00"}})
    noor.post(f"/rules/{first}/approve", {"in_force": "0"})
    said(noor)

    noor.post(f"/rules/{second}/approve", {"in_force": "0"})

    assert "other rules came into force since you looked" in said(noor).replace("Other", "other")
    assert in_force(fresh_books) == first


def test_an_older_version_is_not_put_in_force_again(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")
    first = propose(maya, DOCUMENT)
    second = propose(maya, {"write_off_limits": {"USD": "1.00"}})
    noor.post(f"/rules/{second}/approve", {"in_force": "0"})
    said(noor)

    page = noor.read(f"/rules/{first}")
    noor.post(f"/rules/{first}/approve", {"in_force": str(second)})

    assert "Passed over" in page
    assert "/approve" not in page
    assert "which is newer" in said(noor)


def test_a_version_shows_what_it_changes(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")
    first = propose(maya, DOCUMENT)
    noor.post(f"/rules/{first}/approve", {"in_force": "0"})
    changed = DOCUMENT | {"write_off_limits": {"USD": "300.00", "JPY": "20000"}}

    second = propose(maya, changed)

    table = maya.read(f"/rules/{second}").split("What it changes", 1)[1].split("</table>", 1)[0]
    assert f"version {first}" in table
    assert re.findall(r'scope="row" data-label="What">(.*?)</th>', table) == ["Write-off limit in USD"]
    assert "250.00 USD" in table
    assert "300.00 USD" in table


def test_the_form_begins_with_the_rules_in_force(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")
    version = propose(maya, DOCUMENT)
    noor.post(f"/rules/{version}/approve", {"in_force": "0"})

    page = maya.read("/rules/new")

    from html import unescape

    found = re.search(r"<textarea id=\"document\"[^>]*>(.*?)</textarea>", page, re.DOTALL)
    assert found
    assert parse(json.loads(unescape(found[1]))) == parse(DOCUMENT)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[" * 50_000, "cannot be read as JSON"),
        ('{"tolerances": [], "tolerances": []}', "tolerances is given twice"),
        ("[]", "The rules cannot be read"),
        ('{"unknown": 1}', "unknown"),
        ('{"tolerances": [{"id": "a", "type": "link_missing", "percent": 1}]}', "has no size"),
        ('{"write_off_limits": {"USD": "1.001"}}', "USD has 2 decimals"),
        ('{"write_off_limits": {"USD": NaN}}', "an amount is 0 to"),
        ('{"write_off_limits": {"XXX": 1}}', "no ISO 4217 code"),
        ('{"assumptions": {"split_counts_once": "\\u202e"}}', "cannot be read"),
        ("{}", "in force already"),
    ],
)
def test_rules_that_cannot_be_read_are_told_at_the_field_and_kept(
    fresh_books: Books, document: str, words: str
) -> None:
    answer = fresh_books.person(Role.CLERK).post("/rules", {"document": document, "comment": "my words"})

    assert answer.status_code == 422
    [told] = re.findall(r'<p class="wrong-words" id="document-wrong">(.*?)</p>', answer.text, re.DOTALL)
    assert words in told
    assert ">\nmy words</textarea>" in answer.text
    assert fresh_books.shop.rows("SELECT FROM rule_sets") == []


def test_the_same_is_not_proposed_twice(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    version = propose(maya, DOCUMENT)

    answer = maya.post("/rules", {"document": json.dumps(DOCUMENT)})

    assert answer.status_code == 422
    assert f"Version {version} proposes just these" in answer.text


def test_what_others_wrote_is_harmless(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    version = propose(maya, DOCUMENT, MARKUP)

    for path in ("/rules", f"/rules/{version}"):
        page = maya.read(path)
        assert "<b onclick" not in page
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page


def test_rules_of_another_release_are_shown_as_they_are(fresh_books: Books) -> None:
    fresh_books.shop.rows(
        "INSERT INTO rule_sets (document, created_by, created_at)"
        """ VALUES ('{"later": "rules"}', 'maya', now()) RETURNING version"""
    )
    noor = fresh_books.person(Role.APPROVER, name="noor")
    version = fresh_books.shop.one("SELECT version FROM rule_sets").version

    waiting = noor.read(f"/rules/{version}")
    noor.post(f"/rules/{version}/approve", {"in_force": "0"})

    assert "this one cannot read them" in waiting
    assert "&#34;later&#34;" in waiting
    assert "/approve" not in waiting
    assert in_force(fresh_books) is None
    fresh_books.shop.rows(
        "INSERT INTO rule_set_approvals SELECT version, created_by, 'noor', now() FROM rule_sets RETURNING 1"
    )
    assert "this one cannot read them" in noor.read("/rules")


def test_who_does_not_see_every_instance_sets_no_rules(fresh_books: Books) -> None:
    reach = Reach(frozenset({fresh_books.other_instance_id}))
    version = decisions.propose_rules(fresh_books.shop.services, DOCUMENT, actor="maya", comment=None)
    person = fresh_books.person(Role.CLERK, Role.APPROVER, reach=reach)

    pages = [person.read("/rules"), person.read(f"/rules/{version}")]
    statuses = [
        person.get("/rules/new").status_code,
        person.post("/rules", {"document": "{}"}).status_code,
        person.post(f"/rules/{version}/approve", {"in_force": "0"}).status_code,
    ]

    assert statuses == [303, 303, 303]
    assert "Propose rules" not in pages[0]
    assert "/approve" not in pages[1]
    assert in_force(fresh_books) is None


def test_an_auditor_reads_and_changes_nothing(books: Books) -> None:
    auditor = books.person(Role.AUDITOR)

    assert auditor.get("/rules/1").status_code == 200
    assert auditor.get("/rules/new").status_code == 403
    assert auditor.post("/rules", {"document": "{}"}).status_code == 403
    assert auditor.post("/rules/1/approve", {"in_force": "0"}).status_code == 403


@pytest.mark.parametrize("path", ["/rules/0", "/rules/999999", "/rules/99999999999999999999999", "/rules/x"])
def test_there_is_no_such_version(books: Books, path: str) -> None:
    assert books.person().get(path).status_code == 404


def test_the_versions_are_paged(fresh_books: Books) -> None:
    fresh_books.shop.rows(
        "INSERT INTO rule_sets (document, created_by, created_at)"
        " SELECT '{}', 'maya', now() FROM generate_series(1, 60) RETURNING version"
    )
    person = fresh_books.person()

    first = person.read("/rules")
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following
    second = person.read(following[1])

    shown = [re.findall(r">Version (\d+)</a>", page) for page in (first, second)]
    assert [len(versions) for versions in shown] == [50, 10]
    assert len({*shown[0], *shown[1]}) == 60


def test_every_assumption_has_its_question() -> None:
    from processor.domain.rules import Assumptions

    assert [one.name for one in rules.QUESTIONS] == list(Assumptions.__struct_fields__)


def test_what_differs_between_two_versions_is_named_once() -> None:
    before, after = parse(DOCUMENT), parse({"tolerances": DOCUMENT["tolerances"][:1]})

    changed = {one.what: (one.before, one.after) for one in rules.changes(before, after)}

    assert changed["Write-off limit in JPY"] == ("20,000 JPY", None)
    assert changed["Tolerance small"][1] is None
    assert "Tolerance cents" not in changed
    assert rules.changes(BUILT_IN.rule_set, BUILT_IN.rule_set) == []
    assert parse(DOCUMENT).write_off_limits["USD"] == Decimal("250.00")
