"""What holds for every page there is, whichever it is: found by its route."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processor.domain.access import Role
from tests.web.pages.books import MARKUP, Books, arguments
from tests.web.pages.screenshots import paths
from tests.web.pages.test_access import path_of, routes

VOID = {"meta", "link", "input", "br", "img", "hr", "area", "base", "col", "embed", "source", "track", "wbr"}
# What a filter may be given: nothing, too much, of another kind, and what no database or no page can hold.
ODD = st.sampled_from(
    [
        *(
            "",
            "0",
            "-1",
            "1",
            "99999999999999999999999",
            "1e400",
            "NaN",
            "Infinity",
            "0x10",
            "\0",
            "\ud7ff",
            "null",
        ),
        *(
            "2026-02-30",
            "0000-00-00",
            "9999-12-31",
            "0001-01-01",
            "2026-11-28",
            "10000-01-01",
            "2026-11-28T25:00",
        ),
        *(
            "00000000-0000-0000-0000-000000000000",
            "USD",
            "usd",
            "€",
            "'",
            '"',
            "%",
            "_",
            "\\",
            "../..",
            "{}",
            "[]",
        ),
        *(
            "<script>",
            "=1+1",
            "a" * 10_000,
            "\N{RIGHT-TO-LEFT OVERRIDE}",
            "open",
            "matched",
            "newest",
            "WzEsMl0",
        ),
    ]
) | st.text(max_size=30)


class Reader(HTMLParser):
    """Collects what is wrong with a page as HTML, and everything that a strict policy would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if len(given) < len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice: {attrs}")
        self.wrong += [f"<{tag} {name}>" for name in given if name == "style" or name.startswith("on")]
        if tag == "script" and not given.get("src"):
            self.wrong.append("a script within the page")
        if tag == "style":
            self.wrong.append("a style within the page")
        if tag == "a" and re.match(r"\s*(javascript|data|vbscript):", given.get("href") or "", re.IGNORECASE):
            self.wrong.append(f"a link to {given['href']}")
        if tag == "form" and (given.get("method") or "get").lower() == "get" and "csrf" in str(given):
            self.wrong.append("a token in an address")
        if "id" in given:
            self.ids.append(str(given["id"]))
        if tag == "h1":
            self.headings.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self.open[-3:]}")
        while self.open and self.open.pop() != tag:
            pass


def wrong_with(text: str) -> list[str]:
    reader = Reader()
    reader.feed(text)
    twice = {one for one in reader.ids if reader.ids.count(one) > 1}
    return [
        *reader.wrong,
        *(["an id is there twice: " + ", ".join(sorted(twice))] if twice else []),
        *([f"{len(reader.headings)} headings of the first rank"] if len(reader.headings) != 1 else []),
        *([f"left open: {reader.open}"] if reader.open else []),
    ]


def test_every_page_is_sound_and_harmless(books: Books) -> None:
    person = books.person(Role.CLERK, Role.APPROVER, Role.OPERATOR, personal=True)
    wrong = []
    for name, path in paths(books).items():
        text = person.read(path)
        wrong += [f"{name}: {one}" for one in wrong_with(text)]
        if "<b onclick" in text:
            wrong.append(f"{name}: prints markup of others as markup")
        if "\N{RIGHT-TO-LEFT OVERRIDE}" in text:
            wrong.append(f"{name}: prints what turns the text around it")
    assert wrong == []
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" in MARKUP, "or this tests nothing"


def test_no_page_breaks_on_an_odd_filter(books: Books) -> None:
    """Every name that a page's forms and links use, each with odd values, and some it does not know."""
    person = books.person(Role.CLERK, Role.APPROVER, Role.OPERATOR, personal=True)
    values = arguments(books)
    pages = [
        path_of(books.app, rule, values)
        for method, rule, needs in routes(books.app)
        if method == "GET" and needs.permission is not None
    ]
    parts = {  # of pages, asked for by these: they have no heading of the first rank
        path_of(books.app, rule, values) for _, rule, needs in routes(books.app) if needs.is_live
    }
    known = {"at", "instance", "next"}
    for path in pages:
        answer = person.get(path)
        if answer.mimetype == "text/html":
            known |= set(re.findall(r'<(?:input|select)[^>]* name="([a-z_]+)"', answer.text))
            known |= set(re.findall(r'href="[^"]*[?&](?:amp;)?([a-z_]+)=', answer.text))
    names = st.sampled_from(sorted(known - {"csrf_token"}))

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(pages), st.lists(st.tuples(names, ODD), max_size=5))
    def ask(path: str, query: list[tuple[str, str]]) -> None:
        answer = person.client.get(path, query_string=query)
        answer.get_data()  # what is streamed is made while it is read
        assert answer.status_code < 500, (path, query, answer.text[:500])
        if answer.mimetype == "text/html" and answer.status_code < 300 and path not in parts:
            assert wrong_with(answer.text) == [], (path, query)

    ask()


def test_no_form_breaks_on_odd_fields(books: Books) -> None:
    """Every POST with the names of every form; nothing is ever a fault of ours."""
    person = books.person(Role.CLERK, Role.APPROVER, Role.OPERATOR, personal=True)
    values = arguments(books)
    posts = [
        path_of(books.app, rule, values)
        for method, rule, needs in routes(books.app)
        if method == "POST" and rule.endpoint not in ("signing.sign_out", "signing.take_sign_in")
    ]
    known: set[str] = set()
    for path in paths(books).values():
        known |= set(
            re.findall(r'<(?:input|select|textarea|button)[^>]* name="([a-zA-Z0-9_.-]+)"', person.read(path))
        )
    names = st.sampled_from(sorted(known - {"csrf_token"}))

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(posts), st.lists(st.tuples(names, ODD), max_size=6))
    def send(path: str, form: list[tuple[str, str]]) -> None:
        answer = person.post(path, form)
        assert answer.status_code < 500 or answer.status_code == 503, (path, form, answer.text[:2000])

    send()
