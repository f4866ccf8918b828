"""The pages in a real browser: every one for everybody's eyes and hands, and what people do with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewPage, is_too_wide, violations
from tests.conftest import Owner, a_database
from tests.web.pages.books import Books, some_books
from tests.web.pages.conftest import shared_redis
from tests.web.pages.screenshots import NAME, PASSWORD, paths, person_of_pictures, served

PHONE, DESKTOP = 390, 1280


@dataclass(frozen=True, slots=True)
class Seen:
    """Books on a server, and its address."""

    books: Books
    url: str


@pytest.fixture(scope="module")
def seen(_owner: Owner, _template: str) -> Iterator[Seen]:
    with (
        a_database(_owner.get().database_url, _owner.new_database(), template=_template) as database_url,
        some_books(database_url, shared_redis(_owner)) as books,
        served(books.app) as url,
    ):
        person_of_pictures(books)
        yield Seen(books, url)


def sign_in(page: Page, url: str, name: str = NAME, password: str = PASSWORD) -> None:
    page.goto(f"{url}/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("width", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_every_page_is_for_everybody(seen: Seen, new_page: NewPage, width: int, scheme: str) -> None:
    page = new_page(width, color_scheme=scheme)
    page.goto(f"{seen.url}/sign-in")
    wrong = [f"sign-in: {one}" for one in violations(page)]
    sign_in(page, seen.url)

    for name, path in paths(seen.books).items():
        page.goto(seen.url + path)
        wrong += [f"{name}: {one}" for one in violations(page)]
        if is_too_wide(page):
            wrong.append(f"{name}: scrolls sideways")

    assert wrong == []


def test_pages_serve_without_scripts(seen: Seen, new_page: NewPage) -> None:
    page = new_page(PHONE, java_script_enabled=False)
    sign_in(page, seen.url)

    page.get_by_text("Menu", exact=True).click()
    places = page.get_by_role("navigation", name="Main").get_by_role("listitem").all_inner_texts()
    for place in places:
        page.get_by_text("Menu", exact=True).click()
        if not page.get_by_role("link", name=place, exact=True).first.is_visible():
            page.get_by_text("Menu", exact=True).click()
        page.get_by_role("link", name=place, exact=True).first.click()
        expect(page.get_by_role("heading", level=1)).to_have_count(1)

    page.goto(f"{seen.url}/account")
    page.get_by_text("Menu", exact=True).click()
    page.get_by_role("button", name="Dark").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.get_by_text("Menu", exact=True).click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_discrepancies_are_worked_on_by_the_keyboard_alone(seen: Seen, new_page: NewPage) -> None:
    page = new_page(reduced_motion="reduce")
    sign_in(page, seen.url)
    page.goto(f"{seen.url}/discrepancies")

    def tab_to(selector: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"one sees that {selector} has the focus"
                return
        pytest.fail(f"the keyboard does not reach {selector}")

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # past the navigation
    tab_to("input[name=chosen]")
    page.keyboard.press("Space")
    tab_to("#together-action")
    page.keyboard.press("C")  # chooses "Comment", without opening the list
    assert page.locator("#together-action").input_value() == "comment"
    tab_to("#together-comment")
    page.keyboard.type("looked at without a mouse")
    tab_to("#together button:not([name])")
    page.keyboard.press("Enter")

    expect(page.get_by_role("status")).to_contain_text("Comment: 1 of 1.")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.skip')"), "after it one begins at the top again"
    moving = page.evaluate("getComputedStyle(document.querySelector('.places a')).transitionDuration")
    assert moving == "0s", "who wants no motion gets none"
    page.emulate_media(media="print")
    assert not page.locator("#together").is_visible()
    assert not page.locator(".side").is_visible()
    assert page.get_by_role("table").is_visible()


def test_one_goes_through_a_page_by_the_keyboard(seen: Seen, new_page: NewPage) -> None:
    page = new_page()
    sign_in(page, seen.url)

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    assert page.evaluate("document.activeElement.id") == "content", "the first stop leads past the navigation"
