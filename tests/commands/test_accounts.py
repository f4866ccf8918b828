"""`processor accounts`: who may sign in."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from processor.store import accounts
from processor.web.pages.signing import verify
from tests.commands.running import Run, told
from tests.shop import Shop

INSTANCE = str(uuid4())


def listed(run: Run) -> Any:
    return told(run("accounts", "list", "--json"))


def test_an_account_is_made_changed_and_disabled(run: Run, tmp_path: Path) -> None:
    assert "no account" in run("accounts", "list").stdout
    file = tmp_path / "password"
    file.write_text("correct horse battery\n")

    run("accounts", "add", "maya", "--role", "clerk", "--every-instance", "--password-file", str(file))
    run(
        "accounts",
        "change",
        "MAYA",
        "--role",
        "operator",
        "--role",
        "clerk",
        "--instance",
        INSTANCE,
        "--personal",
    )
    run("accounts", "change", "maya", "--disable")

    assert listed(run) == [
        {
            "name": "maya",
            "roles": ["clerk", "operator"],
            "instances": [INSTANCE],
            "sees_personal": True,
            "has_password": True,
            "is_disabled": True,
        }
    ]
    assert "no: disabled" in run("accounts", "list").stdout


def test_a_password_is_asked_for_twice_and_kept_as_a_hash(run: Run, shop: Shop) -> None:
    run(
        "accounts",
        "add",
        "maya",
        "--role",
        "auditor",
        "--every-instance",
        input="a long password\na long password\n",
    )

    run("accounts", "password", "maya", input="another password\nanother password\n")

    with shop.services.database.begin() as connection:
        found = accounts.named(connection, "maya")
    assert found is not None
    assert verify(found[1], "another password")
    assert not verify(found[1], "a long password")
    assert "another password" not in str(found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "maya", "--every-instance"], "at least one role"),
        (["add", "maya", "--role", "clerk"], "say what the person sees"),
        (
            ["add", "maya", "--role", "clerk", "--every-instance", "--instance", INSTANCE],
            "choose --every-instance",
        ),
        (["add", "maya", "--role", "clerk", "--role", "auditor", "--every-instance"], "no other role"),
        (["add", "Automation", "--role", "clerk", "--every-instance"], "automation"),
        (["add", "ma<b>ya", "--role", "clerk", "--every-instance"], "letters, digits"),
        (["add", "maya", "--role", "clerk", "--every-instance", "--no-password"], "--oidc-subject"),
        (["change", "nobody", "--disable"], "no account nobody"),
        (["password", "nobody"], "no account nobody"),
        (["sign-out", "nobody"], "no account nobody"),
    ],
)
def test_what_cannot_be_is_refused_in_words(run: Run, arguments: list[str], words: str) -> None:
    done = run("accounts", *arguments, input="a long password\na long password\n", code=2)

    assert words in done.output


@pytest.mark.parametrize("password", ["short", "maya", "mayamaya1234", "aaaaaaaaaaaaaaa"])
def test_a_weak_password_is_refused(run: Run, password: str) -> None:
    done = run(
        "accounts",
        "add",
        "maya",
        "--role",
        "clerk",
        "--every-instance",
        input=f"{password}\n{password}\n",
        code=2,
    )

    assert "password" in done.output
    assert listed(run) == []


def test_two_accounts_have_two_names_and_two_subjects(run: Run) -> None:
    said = "a long password\na long password\n"
    subject = ["--oidc-subject", "https://id.example.com 7"]
    run("accounts", "add", "maya", "--role", "clerk", "--every-instance", *subject, input=said)

    again = run("accounts", "add", "Maya", "--role", "auditor", "--every-instance", input=said, code=2)
    other = run(
        "accounts", "add", "noor", "--role", "clerk", "--every-instance", "--no-password", *subject, code=2
    )

    assert "there is an account" in again.output
    assert "another account signs in by that subject" in other.output
    assert [one["name"] for one in listed(run)] == ["maya"]
