"""The rules of reconciliation on the pages: one person proposes, another approves."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from sqlalchemy.exc import DatabaseError

from processor import decisions
from processor.domain.access import Reach, Role
from processor.domain.discrepancy import DiscrepancyType
from processor.domain.rules import BUILT_IN, parse
from processor.store.screens.rules import OpenDifference
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
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == ["What", "Before", "Proposed"]
    assert re.findall(r'scope="row" data-label="What">(.*?)</th>', table) == ["Write-off limit in USD"]
    assert "250.00 USD" in table
    assert "300.00 USD" in table


def test_the_form_begins_with_the_rules_in_force(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")
    version = propose(maya, DOCUMENT)
    noor.post(f"/rules/{version}/approve", {"in_force": "0"})

    page = maya.read("/rules/new")

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


def test_what_was_passed_over_is_proposed_anew(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")
    propose(fresh_books.person(Role.CLERK, name="gone"), DOCUMENT)
    newer = propose(maya, {"write_off_limits": {"USD": "1.00"}})
    noor.post(f"/rules/{newer}/approve", {"in_force": "0"})

    again = propose(maya, DOCUMENT)
    noor.post(f"/rules/{again}/approve", {"in_force": str(newer)})

    assert in_force(fresh_books) == again


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


# -- The form --------------------------------------------------------------------------------------

ROW = {
    "tolerance_rows": "1",
    "tolerance_id-0": "cents",
    "tolerance_type-0": "total_differs",
    "tolerance_currency-0": "usd",
    "tolerance_amount-0": "0.05",
    "tolerance_percent-0": "",
    "tolerance_days-0": "3",
    "limit_rows": "2",
    "limit_currency-0": "USD",
    "limit_amount-0": "250",
    "limit_currency-1": "",
    "limit_amount-1": "",
    "assume_total_falls_on_refund": "yes",
    "assume_split_counts_once": "no",
    "comment": "as agreed",
}


def hidden(page: str, name: str) -> str:
    found = re.search(rf'<input type="hidden" name="{name}" value="([^"]*)">', page)
    assert found, name
    return unescape(found[1])


def wrong_words(page: str) -> dict[str, str]:
    """What is said to be wrong, by the field it is said at."""
    return dict(re.findall(r'<p class="wrong-words" id="(?:field-)?(.*?)-wrong">(.*?)</p>', page))


def test_the_form_is_looked_at_then_proposed_then_approved(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")

    answer = maya.post("/rules/draft", ROW | {"step": "preview"})

    assert answer.status_code == 200
    assert fresh_books.shop.rows("SELECT FROM rule_sets") == [], "looking proposes nothing"
    assert "Up to 0.05 USD" not in answer.text.split("What it changes", 1)[0]
    assert "Total differs: up to 0.05 USD, for 3 days: needs no decision." in answer.text
    assert "250.00 USD" in answer.text
    document = json.loads(hidden(answer.text, "document"))
    assert parse(document) == parse(
        {
            "tolerances": [DOCUMENT["tolerances"][0]],
            "write_off_limits": {"USD": 250},
            "assumptions": DOCUMENT["assumptions"],
        }
    )
    version = propose(maya, hidden(answer.text, "document"), hidden(answer.text, "comment"))
    noor.post(f"/rules/{version}/approve", {"in_force": "0"})
    assert in_force(fresh_books) == version
    begun = maya.read("/rules/new")
    assert 'name="tolerance_amount-0" type="text" value="0.05"' in begun
    assert re.search(r'name="assume_split_counts_once".*?<option value="no" selected>', begun, re.DOTALL)


def test_lines_are_added_and_removed_without_scripting_and_nothing_typed_is_lost(books: Books) -> None:
    maya = books.person(Role.CLERK)

    more = maya.post("/rules/draft", ROW | {"step": "more_tolerances", "tolerance_days-0": "soon"}).text
    less = maya.post("/rules/draft", ROW | {"step": "drop_tolerance-0"}).text
    limits = maya.post("/rules/draft", ROW | {"step": "drop_limit-0"}).text

    assert hidden(more, "tolerance_rows") == "2"
    assert 'value="soon"' in more
    assert ">\nas agreed</textarea>" in more
    assert wrong_words(more) == {}, "nothing is judged before it is sent"
    assert hidden(less, "tolerance_rows") == "0"
    assert 'value="250"' in less
    assert hidden(limits, "limit_rows") == "1"
    assert 'value="250"' not in limits


@pytest.mark.parametrize(
    ("typed", "where", "words"),
    [
        ({"tolerance_amount-0": "0,05"}, "tolerance_amount-0", "with a point"),
        ({"tolerance_amount-0": "0.055"}, "tolerance_amount-0", "at most 2 decimals"),
        ({"tolerance_amount-0": "-1"}, "tolerance_amount-0", "with a point"),
        ({"tolerance_amount-0": "9" * 90}, "tolerance_amount-0", "such as 1234.50"),
        ({"tolerance_amount-0": "9" * 16}, "tolerance_amount-0", "more than"),
        ({"tolerance_amount-0": ""}, "tolerance_amount-0", "an amount, a percentage, or both"),
        ({"tolerance_currency-0": ""}, "tolerance_currency-0", "needs its currency"),
        ({"tolerance_currency-0": "XXX"}, "tolerance_currency-0", "No ISO 4217"),
        ({"tolerance_percent-0": "101"}, "tolerance_percent-0", "0 to 100"),
        ({"tolerance_percent-0": "1e3"}, "tolerance_percent-0", "0 to 100"),
        ({"tolerance_percent-0": "٣"}, "tolerance_percent-0", "0 to 100"),
        ({"tolerance_days-0": "1.2345"}, "tolerance_days-0", "three decimals"),
        ({"tolerance_id-0": "Cents!"}, "tolerance_id-0", "Small letters"),
        ({"tolerance_id-0": "\N{RIGHT-TO-LEFT OVERRIDE}\0"}, "tolerance_id-0", "Small letters"),
        ({"tolerance_type-0": "link_missing"}, "tolerance_type-0", "Choose one"),
        ({"limit_currency-1": "USD", "limit_amount-1": "1"}, "limit_currency-1", "Another line"),
        ({"limit_currency-1": "EUR"}, "limit_amount-1", "Write an amount"),
        ({"limit_amount-1": "1"}, "limit_currency-1", "No ISO 4217"),
        ({"assume_split_counts_once": "perhaps"}, "assume_split_counts_once", "Choose one"),
        ({"comment": "x" * 2_001}, "comment", "at most 2,000 letters"),
    ],
    ids=range(20),
)
def test_what_is_wrong_is_told_beside_its_field(
    books: Books, typed: dict[str, str], where: str, words: str
) -> None:
    answer = books.person(Role.CLERK).post("/rules/draft", ROW | typed | {"step": "preview"})

    assert answer.status_code == 422
    told = wrong_words(answer.text)
    assert list(told) == [where]
    assert words in told[where]
    assert "one field needs another look" in answer.text


def test_two_tolerances_of_a_name_are_told_at_the_second(books: Books) -> None:
    second = {name.replace("-0", "-1"): value for name, value in ROW.items() if name.startswith("tolerance_")}

    answer = books.person(Role.CLERK).post(
        "/rules/draft", ROW | second | {"tolerance_rows": "2", "step": "preview"}
    )

    assert wrong_words(answer.text) == {"tolerance_id-1": "Another tolerance has this name."}


def test_a_tolerance_without_a_name_is_given_one(books: Books) -> None:
    nameless = {
        name.replace("-0", "-1"): value for name, value in ROW.items() if name.startswith("tolerance_")
    }
    typed = ROW | nameless | {"tolerance_rows": "3", "tolerance_id-0": "", "tolerance_id-1": ""}

    answer = books.person(Role.CLERK).post("/rules/draft", typed | {"step": "preview"})

    document = json.loads(hidden(answer.text, "document"))
    assert [one["id"] for one in document["tolerances"]] == ["total-differs-usd", "total-differs-usd-2"]


@pytest.mark.parametrize("rows", ["", "x", "-1", "99999999", "٣", "9999"])
def test_a_number_of_lines_that_cannot_be_is_no_error(books: Books, rows: str) -> None:
    answer = books.person(Role.CLERK).post(
        "/rules/draft", {"tolerance_rows": rows, "limit_rows": rows, "step": "drop_tolerance-9"}
    )

    assert answer.status_code == 200


def test_what_was_looked_at_can_be_changed(books: Books) -> None:
    maya = books.person(Role.CLERK)
    page = maya.post("/rules/draft", ROW | {"step": "preview"}).text

    back = maya.post(
        "/rules/draft", {"document": hidden(page, "document"), "comment": "as agreed", "step": "edit"}
    )

    assert back.status_code == 200
    assert 'name="tolerance_amount-0" type="text" value="0.05"' in back.text
    assert ">\nas agreed</textarea>" in back.text


def test_the_rules_in_force_are_not_looked_at_anew(fresh_books: Books) -> None:
    answer = fresh_books.person(Role.CLERK).post("/rules/draft", {"step": "preview"})

    assert answer.status_code == 422
    assert "These rules are in force already: change something." in answer.text


def test_a_document_is_looked_at_too(books: Books) -> None:
    maya = books.person(Role.CLERK)

    shown = maya.post("/rules/draft", {"document": json.dumps(DOCUMENT), "step": "preview"})
    refused = maya.post("/rules/draft", {"document": "{", "step": "preview"})

    assert "Up to 0.5 % of what is booked" in shown.text
    assert refused.status_code == 422
    assert "cannot be read as JSON" in wrong_words(refused.text)["document"]


def test_what_it_would_mean_for_open_discrepancies_is_told() -> None:
    now = datetime(2026, 11, 28, tzinfo=UTC)

    def differs(amount: str | None, currency: str | None, *, days: int = 0) -> OpenDifference:
        return OpenDifference(
            DiscrepancyType.TOTAL_DIFFERS,
            None if amount is None else Decimal(amount),
            currency,
            now - timedelta(days=days),
        )

    open_ = [
        differs("0.05", "USD"),
        differs("0.06", "USD"),
        differs("0.05", "USD", days=4),
        differs("7", "EUR"),
        differs(None, None),
        OpenDifference(DiscrepancyType.ORDER_AMOUNT_DIFFERS, Decimal("0.01"), "USD", now),
    ]
    rule_set = parse(
        {
            "tolerances": [
                {"id": "cents", "type": "total_differs", "currency": "USD", "amount": "0.05", "days": "3"},
                {"id": "part", "type": "total_differs", "currency": "EUR", "percent": "1"},
            ]
        }
    )

    assert rules.effects(open_, rule_set, now) == [
        rules.Effect("EUR", 1, 0, Decimal(0), 1),
        rules.Effect("USD", 4, 1, Decimal("0.05"), 0),
        rules.Effect(None, 1, 0, Decimal(0), 0),
    ]


def test_an_approver_sees_what_a_proposal_would_mean(books: Books) -> None:
    everything = {
        "tolerances": [{"id": "all", "type": "total_differs", "currency": "USD", "amount": "1000000"}]
    }
    version = decisions.propose_rules(books.shop.services, everything, actor="maya", comment=None)

    page = books.person(Role.APPROVER, name="noor").read(f"/rules/{version}")
    elsewhere = books.person(Role.CLERK, reach=Reach(frozenset({books.other_instance_id})))

    assert "What it would mean for open discrepancies" in page
    assert "What it would mean" not in elsewhere.read(f"/rules/{version}"), "it tells of every instance"
    decisions.withdraw_rules(books.shop.services, version, actor="maya")


# -- Turning down ----------------------------------------------------------------------------------


def test_who_proposed_withdraws_and_nobody_approves_it_any_more(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    noor = fresh_books.person(Role.CLERK, Role.APPROVER, name="noor")
    version = propose(maya, DOCUMENT)

    noor.post(f"/rules/{version}/withdraw", {})
    refused = said(noor)
    maya.post(f"/rules/{version}/withdraw", {"reason": MARKUP})
    page = noor.read(f"/rules/{version}")
    noor.post(f"/rules/{version}/approve", {"in_force": "0"})

    assert "only maya" in refused.lower()
    assert "Withdrawn by" in page
    assert "<b onclick" not in page
    assert "/approve" not in page
    assert "/reject" not in page
    assert "has withdrawn it" in said(noor)
    assert in_force(fresh_books) is None
    assert "waits for approval" not in noor.read("/rules")
    assert propose(maya, DOCUMENT) > version, "the same may be proposed anew"


def test_another_rejects_with_a_reason(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, Role.APPROVER, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")
    version = propose(maya, DOCUMENT)

    own = maya.read(f"/rules/{version}")
    maya.post(f"/rules/{version}/reject", {"reason": "mine"})
    refused = said(maya)
    silent = noor.post(f"/rules/{version}/reject", {"reason": "  "})
    long = noor.post(f"/rules/{version}/reject", {"reason": "x" * 2_001})
    noor.post(f"/rules/{version}/reject", {"reason": "the limit is too high"})
    twice = noor.post(f"/rules/{version}/reject", {"reason": "again"})

    assert "/reject" not in own
    assert "withdraw them" in refused
    assert (silent.status_code, long.status_code, twice.status_code) == (422, 422, 303)
    assert "Say why" in wrong_words(silent.text)["reject"]
    page = maya.read(f"/rules/{version}")
    assert "Rejected by" in page
    assert "the limit is too high" in page
    assert "has rejected it already" in said(noor)
    assert fresh_books.shop.one("SELECT count(*) AS rows FROM rule_set_endings").rows == 1


def test_what_is_in_force_is_neither_withdrawn_nor_rejected(fresh_books: Books) -> None:
    maya = fresh_books.person(Role.CLERK, name="maya")
    noor = fresh_books.person(Role.APPROVER, name="noor")
    version = propose(maya, DOCUMENT)
    noor.post(f"/rules/{version}/approve", {"in_force": "0"})
    said(noor)

    maya.post(f"/rules/{version}/withdraw", {})
    noor.post(f"/rules/{version}/reject", {"reason": "why"})

    assert "approved it already" in said(maya)
    assert "approved it already" in said(noor)
    assert fresh_books.shop.rows("SELECT FROM rule_set_endings") == []


def test_turning_down_is_kept_as_it_was(fresh_books: Books) -> None:
    version = decisions.propose_rules(fresh_books.shop.services, DOCUMENT, actor="maya", comment=None)
    decisions.reject_rules(fresh_books.shop.services, version, actor="noor", reason="no")

    with pytest.raises(DatabaseError, match="append-only"):
        fresh_books.shop.rows("UPDATE rule_set_endings SET reason = 'yes' RETURNING 1")
    with pytest.raises(DatabaseError, match="append-only"):
        fresh_books.shop.rows("DELETE FROM rule_set_endings RETURNING 1")


def test_who_does_not_see_every_instance_turns_nothing_down(fresh_books: Books) -> None:
    reach = Reach(frozenset({fresh_books.other_instance_id}))
    version = decisions.propose_rules(fresh_books.shop.services, DOCUMENT, actor="maya", comment=None)
    person = fresh_books.person(Role.CLERK, Role.APPROVER, reach=reach)

    person.post(f"/rules/{version}/withdraw", {})
    person.post(f"/rules/{version}/reject", {"reason": "why"})
    person.post("/rules/draft", ROW | {"step": "preview"})

    assert fresh_books.shop.rows("SELECT FROM rule_set_endings") == []
