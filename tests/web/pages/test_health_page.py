"""Settings and health: what is well, what is not, and that no secret is ever shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from processor.config import Settings, declared_settings
from processor.domain.access import Reach, Role
from processor.queue import open_queue
from processor.web.pages import create_pages
from processor.web.pages.screens.health import setting_lines
from tests.test_config import EXAMPLES
from tests.web.pages.books import Books


def test_what_the_doctor_would_find_is_shown(books: Books) -> None:
    page = books.person().read("/health")

    assert "PostgreSQL" in page
    assert "start processor worker" in page
    assert "never ticked" in page
    assert "need an operator: " in page
    assert "The database takes" in page


def test_without_redis_the_page_says_so(books: Books) -> None:
    away = create_pages(replace(books.shop.services, queue=open_queue("redis://127.0.0.1:1/0")))

    page = books.person(app=away).read("/health")

    assert "does not answer" in page
    assert "not tried" in page


def test_settings_are_for_operators(books: Books) -> None:
    assert "SETTLING_SECONDS" in books.person(Role.OPERATOR).read("/health")
    assert "SETTLING_SECONDS" not in books.person(Role.CLERK, Role.APPROVER).read("/health")


def test_no_secret_is_shown(books: Books) -> None:
    settings = books.shop.services.settings
    page = books.person(Role.OPERATOR).read("/health")

    secrets = [
        str(value)
        for name, declared in declared_settings().items()
        if declared.is_secret and (value := getattr(settings, name)) is not None
    ]
    assert secrets
    assert [one for one in secrets if one in page] == []


def test_of_every_setting_a_secret_is_hidden_and_another_shown() -> None:
    for variable, (example, _) in EXAMPLES.items():
        settings = _settings({variable: example})
        [line] = [one for one in setting_lines(settings) if one.variable == variable]
        declared = {one.variable: one for one in declared_settings().values()}[variable]
        assert line.is_hidden is declared.is_secret, variable
        if declared.is_secret:
            assert line.value is None
        else:
            assert line.value, variable


def _settings(environ: dict[str, str]) -> Settings:
    """Without what contradicts each other: one setting alone."""
    declared = {one.variable: (name, one) for name, one in declared_settings().items()}
    values: dict[str, Any] = {
        declared[variable][0]: declared[variable][1].parse(value) for variable, value in environ.items()
    }
    return Settings(**values)


def test_silences_and_outages_are_shown_of_the_own_instances(fresh_books: Books) -> None:
    books = fresh_books
    with books.shop.services.database.begin() as connection:
        for instance_id in (books.instance_id, books.other_instance_id):
            connection.execute(
                text("""
                    INSERT INTO silences (silence_id, instance_id, silent_since, patience_seconds, suspected_at,
                        verdict, verified_at, confirmed_at, payments_found)
                    VALUES (gen_random_uuid(), :id, now(), 60, now(), 'silent', now(), now(), 3)"""),
                {"id": instance_id},
            )
            connection.execute(
                text("INSERT INTO wix_outages (instance_id, since, told_at) VALUES (:id, now(), now())"),
                {"id": instance_id},
            )
    narrow = books.person(Role.OPERATOR, reach=Reach(frozenset({books.other_instance_id})))

    page = narrow.read("/health")
    everything = books.person().read("/health")

    assert "Wix lists 3 that we were not told of" in page
    assert "Wix could not be asked since" in page
    assert str(books.other_instance_id)[:8] in page
    assert str(books.instance_id)[:8] not in page
    assert str(books.instance_id)[:8] in everything


def test_what_is_of_the_whole_installation_is_not_for_who_sees_a_part(books: Books) -> None:
    narrow = books.person(Role.OPERATOR, reach=Reach(frozenset({books.other_instance_id})))

    page = narrow.read("/health")
    narrow.post("/health/alerts/again")

    assert "Largest tables" not in page
    assert "Backlog" not in page
    assert "does not see every one" in narrow.read("/health")


def test_messages_that_were_given_up_are_sent_again(fresh_books: Books) -> None:
    books = fresh_books
    with books.shop.services.database.begin() as connection:
        connection.execute(text("INSERT INTO alert_channels (channel) VALUES ('webhook')"))
        connection.execute(
            text("""
                INSERT INTO alert_deliveries (delivery_id, channel, kind, document, alert_count, status, attempts,
                    made_at, waiting_since, ended_at, last_error)
                VALUES (gen_random_uuid(), 'webhook', 'alert', '{}', 1, 'given_up', 9, now(), now(), now(),
                    'the receiver answered 500')""")
        )
    operator = books.person(Role.OPERATOR)

    before = operator.read("/health")
    operator.post("/health/alerts/again")
    after = operator.read("/health")
    books.shop.rows("SELECT 1")

    assert "the receiver answered 500" in before
    assert "not configured any more" in before
    assert "1 message is sent again" in after
    assert books.shop.one("SELECT status FROM alert_deliveries").status == "waiting"


@pytest.mark.parametrize("path", ["/health", "/jobs"])
def test_nothing_is_asked_of_wix_for_these_pages(books: Books, path: str) -> None:
    before = books.shop.calls

    books.person().read(path)

    assert books.shop.calls == before
