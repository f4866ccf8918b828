"""What `processor links` says, above all when something is not as it should be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from processor import logs, wiring
from processor.cli import cli
from tests.shop import Shop, a_shop

Run = Callable[..., Result]
NEW = ("links", "create", "--title", "Tea", "--currency", "EUR")


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url) as running:
        running.deliver()
        yield running


@pytest.fixture
def run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command as the command line does, with services of its own; its log goes nowhere."""

    def build(role: str, environ: object = None) -> wiring.Services:
        return wiring.build(shop.services.settings, role=role, now=shop.services.now)

    monkeypatch.setattr(wiring, "from_environ", build)
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)

    def command(*arguments: object, code: int = 0, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(one) for one in arguments], input=input)
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    with capture_logs():
        yield command


def told(result: Result) -> Any:
    return json.loads(result.stdout)


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
