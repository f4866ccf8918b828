"""What `processor links` says, above all when something is not as it should be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from processor.cli import cli
from processor.commands.links import sending, shared
from tests.commands.running import Run, told
from tests.shop import Shop

NEW = ("links", "create", "--title", "Tea", "--currency", "EUR")


def created(run: Run, *more: object) -> str:
    """The id of a new link."""
    return str(told(run(*NEW, "--item", "Tea:1:4.50", "--json", *more))["id"])


# -- What was written ------------------------------------------------------------------------------


@pytest.mark.parametrize("item", ["", "Seat", "Seat:2", "Seat:x:1", ":2:1", " :2:1", "Seat:2:", "::", ":"])
def test_an_item_in_another_form_is_answered_by_the_form(item: str) -> None:
    result = CliRunner().invoke(cli, [*NEW, "--item", item, "--dry-run"])

    assert result.exit_code == 2, result.exception
    assert f"--item {item}: write NAME:QUANTITY:PRICE, such as 'Green tea:2:4.50'" in result.stderr


@pytest.mark.parametrize("product", ["", ":", " ", ":2", "id:x", "id:x:variant", "::variant"])
def test_a_product_in_another_form_is_answered_by_the_form(product: str) -> None:
    result = CliRunner().invoke(cli, [*NEW, "--product", product, "--dry-run"])

    assert result.exit_code == 2, result.exception
    assert f"--product {product}: write ID, ID:QUANTITY or ID:QUANTITY:VARIANT" in result.stderr


@pytest.mark.parametrize("recipient", ["", ":", " ", ":EMAIL_METHOD"])
def test_a_recipient_without_a_contact_is_answered_by_the_form(recipient: str) -> None:
    result = CliRunner().invoke(cli, [*NEW, "--item", "Tea:1:1", "--recipient", recipient, "--dry-run"])

    assert result.exit_code == 2, result.exception
    assert f"--recipient {recipient}: write CONTACT" in result.stderr


def test_an_empty_reference_is_not_replaced_by_one_that_nobody_knows(run: Run, shop: Shop) -> None:
    result = run(*NEW, "--item", "Tea:1:1", "--reference", "", code=2)

    assert "1 to 100 characters" in result.stderr
    assert shop.sandbox.documents.count("link") == 0


# -- A link that is there --------------------------------------------------------------------------


def test_a_note_is_answered_by_the_note(run: Run) -> None:
    link_id = created(run)

    assert run("links", "note", link_id, "hi").stdout == "noted: hi\n"
    assert told(run("links", "note", link_id, "ho", "--json"))["note"] == {"text": "ho"}


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_nothing_is_deleted_where_nobody_can_be_asked(run: Run, more: list[str]) -> None:
    link_id = created(run)

    result = run("links", "delete", link_id, *more, code=2, input="y\n")

    assert (result.stdout, result.stderr) == (
        "",
        "processor: not deleted: say --yes, since nobody can be asked here\n",
    )
    run("links", "show", link_id)


def test_a_program_at_a_terminal_is_not_asked_either(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processor.commands.links.changing._is_person_there", lambda: True)

    assert "say --yes" in run("links", "delete", created(run), "--json", code=2, input="y\n").stderr


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_a_no_deletes_nothing_and_says_so(run: Run, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("processor.commands.links.changing._is_person_there", lambda: True)
    link_id = created(run)

    assert run("links", "delete", link_id, code=1, input=answer).stdout.endswith("\nnot deleted\n")
    run("links", "show", link_id)


def test_an_interrupted_question_is_closed_and_deletes_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processor.commands.links.changing._is_person_there", lambda: True)
    link_id = created(run)

    assert "\nnot deleted\n" in run("links", "delete", link_id, code=1, input="").stderr
    run("links", "show", link_id)


def test_a_yes_deletes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processor.commands.links.changing._is_person_there", lambda: True)

    assert run("links", "delete", created(run), input="y\n").stdout.endswith("\ndeleted\n")
    assert told(run("links", "delete", link_id := created(run), "--yes", "--json"))["id"] == link_id


# -- What Wix refuses ------------------------------------------------------------------------------

NOBODY = "6a206d71-52f5-4012-b3dd-8a283fea052e"


@pytest.mark.parametrize("command", ["show", "send", "initiate", "activate", "deactivate", "note", "delete"])
def test_an_unknown_link_is_told_as_one(run: Run, command: str) -> None:
    more = {"note": ["hi"], "delete": ["--yes"]}.get(command, [])

    result = run("links", command, NOBODY, *more, code=2)

    assert result.stderr.startswith(
        f"processor: Wix knows no payment link {NOBODY} (404 SANDBOX_PAYMENT_LINK_NOT_FOUND"
    )


def test_an_unknown_payment_is_told_as_one(run: Run) -> None:
    assert f"Wix knows no payment {NOBODY} (404" in run("links", "receipt", NOBODY, code=2).stderr


@pytest.mark.parametrize(
    ("flag", "advice"),
    [
        ("isPublished", "publish the site first (428 UNPUBLISHED_SITE"),
        ("acceptsPayments", "accept payments first, in its dashboard (428 MISSING_ACCEPT_PAYMENTS"),
        ("hasEcom", "add Wix eCommerce to the site first (428 FAILED_TO_INSTALL_ECOM"),
        ("hasPermission", "the permission Manage Paylinks (SCOPE.PAYLINKS.MANAGE)"),
    ],
)
def test_a_site_that_is_not_ready_is_told_with_what_to_do(
    run: Run, shop: Shop, flag: str, advice: str
) -> None:
    shop.sandbox.world.change_site(str(shop.instance_id), {flag: False})

    result = run(*NEW, "--item", "Tea:1:1", code=2)

    assert advice in result.stderr
    assert "create_link" not in result.stderr


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (["create", *NEW[2:], "--item", "Tea:1:1"], "must be published, able to take payments"),
        (["initiate", NOBODY], "takes no payment now"),
        (["activate", NOBODY], "its status does not allow it"),
        (["deactivate", NOBODY], "its status does not allow it"),
        (["delete", NOBODY, "--yes"], "nothing was paid by"),
        (["note", NOBODY, "hi"], "Wix answered 428"),
    ],
)
def test_a_failed_precondition_without_a_known_code_is_told_with_what_it_may_be(
    run: Run, shop: Shop, command: list[str], advice: str
) -> None:
    shop.services.wix.check_credentials(shop.instance_id)
    shop.sandbox.faults.add({"kind": "status", "status": 428, "path": "payment-links"})

    result = run("links", *command, code=2)

    assert advice in result.stderr
    assert "(428" in result.stderr or "answered 428" in result.stderr


def test_an_answer_that_does_not_come_is_told_without_the_name_of_our_method(run: Run, shop: Shop) -> None:
    link_id = created(run)
    shop.sandbox.faults.add({"kind": "status", "status": 503, "path": "payment-links"})

    assert run("links", "show", link_id, code=3).stderr.startswith("processor: Wix answered 503")


def test_sending_to_nobody_is_told_with_what_to_give(run: Run) -> None:
    result = run("links", "send", created(run), code=2)

    assert result.stderr == "processor: the link names no recipients: give --recipient CONTACT_ID\n"


def test_a_wrong_recipient_is_not_taken_for_none(run: Run) -> None:
    result = run("links", "send", created(run), "--recipient", f"{NOBODY}:PIGEON_METHOD", code=2)

    assert "names no recipients" not in result.stderr


def test_a_mail_address_is_no_recipient_and_is_not_kept(run: Run, shop: Shop) -> None:
    result = run("links", "send", created(run), "--recipient", "anna@shop.example", code=2)

    assert result.stderr == "processor: --recipient: write the id of a contact, not a mail address\n"
    assert shop.rows("SELECT 1 AS one FROM link_sends") == []


def test_a_sending_is_kept_with_who_asked_for_it(run: Run, shop: Shop) -> None:
    contact_id = shop.sandbox.world.add_contact(str(shop.instance_id), {"name": "Jo"})["id"]
    link_id = created(run)

    run("links", "send", link_id, "--recipient", contact_id, "--as", "ada")
    run("links", "send", link_id, "--as", "ada", code=2)

    rows = shop.rows("SELECT actor, door, contact_ids, methods, outcome FROM link_sends ORDER BY send_id")
    assert [tuple(row) for row in rows] == [
        ("ada", "command", [contact_id], ["EMAIL_METHOD"], "sent"),
        ("ada", "command", None, [], "refused"),
    ]


def test_sends_of_a_link_are_listed_as_its_page_shows_them(run: Run, shop: Shop) -> None:
    link_id = created(run)
    assert "never sent from here" in run("links", "sends", link_id).stdout
    contact_id = shop.sandbox.world.add_contact(str(shop.instance_id), {"name": "Jo"})["id"]
    run("links", "send", link_id, "--recipient", contact_id, "--as", "ada")
    run("links", "send", link_id, "--as", "ada", code=2)

    table = run("links", "sends", link_id).stdout
    listed = run("links", "sends", link_id, "--json").stdout

    assert [(one["outcome"], one["actor"], one["door"]) for one in json.loads(listed)] == [
        ("refused", "ada", "command"),
        ("sent", "ada", "command"),
    ]
    assert contact_id in table
    assert "not sent" in table
    assert "the link's recipients" in table
    assert "only the latest 1 are listed" in run("links", "sends", link_id, "--limit", "1").stdout
    assert json.loads(run("links", "sends", str(shop.instance_id), "--json").stdout) == []


@pytest.mark.parametrize("command", ["create", "send"])
def test_the_methods_of_sending_are_named(command: str) -> None:
    assert "EMAIL_METHOD" in CliRunner().invoke(cli, ["links", command, "--help"]).stdout


# -- How it looks ----------------------------------------------------------------------------------


def columns(text: str) -> set[int]:
    """Where the values begin, of lines of a name and a value."""
    return {re.match(r".*?\S {2,}(?=\S)", line).end() for line in text.splitlines()}  # type: ignore[union-attr]


def test_the_reference_is_one_of_the_lines_of_a_new_link(run: Run) -> None:
    words, lines = run(*NEW, "--item", "Tea:1:1", "--reference", "spring-42").stdout.split("\n", 1)

    assert words == "created"
    assert lines.endswith("  spring-42\n")
    assert len(columns(lines)) == 1


@pytest.mark.parametrize(
    ("currency", "price", "said"), [("USD", "60.00", "60.00 USD"), ("JPY", "60", "60 JPY")]
)
def test_what_was_booked_and_what_wix_received_are_told_alike(
    run: Run, shop: Shop, currency: str, price: str, said: str
) -> None:
    link_id = shop.link(price, currency)
    assert re.search(r"^booked +nothing$", run("links", "show", link_id).stdout, re.MULTILINE)
    shop.pay(link_id)
    shop.pass_time()
    shop.deliver()
    shop.check()

    shown = run("links", "show", link_id).stdout

    for name in ("booked", "received, says Wix"):
        assert re.search(rf"^{name} +{said} \(1 payment\)$", shown, re.MULTILINE), shown
    assert len(columns(shown)) == 1


@pytest.mark.parametrize(
    ("told_by_wix", "said"),
    [
        (("65", "USD", 2), "65.00 USD (2 payments)"),
        (("65.5", "KWD", 1), "65.500 KWD (1 payment)"),
        (("odd", "USD", 1), "odd USD (1 payment)"),
        ((None, "USD", 0), "(0 payments)"),
        (("65.00", None, None), "65.00"),
        ((None, None, None), ""),
    ],
)
def test_a_sum_is_told_as_far_as_it_is_known(
    told_by_wix: tuple[str | None, str | None, int | None], said: str
) -> None:
    assert shared.sum_words(*told_by_wix) == said


def starter(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens browsers here does as the script says."""
    for name in ("xdg-open", "open"):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_without_a_browser_that_alone_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    starter(tmp_path, "echo noise; echo noise >&2; exit 3", monkeypatch)
    link_id = created(run)

    result = run("links", "initiate", link_id, "--open", code=2)

    assert "/checkout/" in result.stdout
    assert result.stderr == "processor: no browser could be opened: open the address yourself\n"
    assert capfd.readouterr() == ("", "")


def test_without_even_a_starter_of_browsers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert not sending._is_shown_in_browser("https://example.com")


@pytest.mark.parametrize("script", ["exit 0", "exec sleep 1"])
def test_a_browser_may_stay_or_hand_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    starter(tmp_path, script, monkeypatch)
    monkeypatch.setattr(sending, "BROWSER_SECONDS", 0.3)

    assert sending._is_shown_in_browser("https://example.com")
