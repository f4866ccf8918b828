"""Pictures of every page, wide and narrow, light and dark: `make screenshots`. What is GET and HTML is pictured."""

from __future__ import annotations

import argparse
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from flask import Flask
from playwright.sync_api import Page, sync_playwright
from sqlalchemy import text
from werkzeug.serving import make_server

from processor.domain.access import Role
from processor.web.pages import access
from processor.web.pages.signing import hasher
from tests.browser.conftest import MISSING, OPTIONS, find_chromium
from tests.conftest import a_database, migrated_template, start_servers, stop_servers
from tests.web.pages.books import Books, arguments, some_books

FOLDER = Path(__file__).resolve().parents[3] / ".data" / "screenshots"
DOCS = Path(__file__).resolve().parents[3] / "docs" / "pictures"
WIDTHS = (1280, 390)
THEMES = ("light", "dark")
NAME, PASSWORD = "maya", "a password for pictures"


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """The address of `app` on a server of this process."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def person_of_pictures(books: Books) -> None:
    """Somebody with every right, to sign in as NAME by PASSWORD."""
    from processor.store import accounts

    books.person(Role.CLERK, Role.APPROVER, Role.OPERATOR, name=NAME, personal=True)
    with books.shop.services.database.begin() as connection:
        found = accounts.named(connection, NAME)
        assert found is not None
        accounts.set_password(
            connection, found[0].account_id, hasher.hash(PASSWORD), books.shop.services.now()
        )


def some_refunds(books: Books) -> None:
    """What a few payments of the pictures gave back, as if events had told of it."""
    told = [("matched", "4.00", "SUCCEEDED"), ("matched", "1.50", "REVERSED"), ("yen", "1200", "SUCCEEDED")]
    with books.shop.services.database.begin() as connection:
        for name, amount, status in told:
            connection.execute(
                text("""
                    INSERT INTO refunds (instance_id, refund_id, payment_id, amount, currency, status, occurred_at,
                        event_id, told_at)
                    SELECT instance_id, gen_random_uuid(), payment_id, CAST(:amount AS numeric), currency, :status,
                        CAST(:now AS timestamptz), event_id, :now
                    FROM payments WHERE payment_id = :payment_id"""),
                {
                    "amount": amount,
                    "status": status,
                    "payment_id": books.payments[name],
                    "now": books.shop.services.now(),
                },
            )


def _asked(books: Books) -> dict[str, str]:
    """What is asked for on pages that show nothing else."""
    today = books.shop.services.now().date()
    return {"reports.report": f"?since={today - timedelta(days=6)}&until={today}"}


def paths(books: Books) -> dict[str, str]:
    """Name of each page, and its path: every GET route that answers HTML."""
    person, values, found = books.person(Role.OPERATOR, Role.CLERK), arguments(books), {}
    with books.app.test_request_context():
        wanted = {
            rule.endpoint: books.app.url_for(rule.endpoint, **{name: values[name] for name in rule.arguments})
            for rule in books.app.url_map.iter_rules()
            if "GET" in (rule.methods or set()) and rule.endpoint != "static"
        }
    for endpoint, path in wanted.items():
        if access.needs_of(books.app, endpoint).is_live:
            continue
        answer = person.get(path)
        if answer.status_code == 200 and answer.mimetype == "text/html":
            found[endpoint] = path + _asked(books).get(endpoint, "")
    return found


def take(books: Books, folder: Path, only: str) -> int:
    """Write the pictures; returns how many. only: of pages with this in their name."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit(MISSING)
    person_of_pictures(books)
    some_refunds(books)
    wanted = {name: path for name, path in paths(books).items() if only in name}
    count = 0
    with served(books.app) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))
        for theme in THEMES:
            for width in WIDTHS:
                context = browser.new_context(
                    viewport={"width": width, "height": 860},
                    color_scheme="dark" if theme == "dark" else "light",
                )
                page = context.new_page()
                page.goto(f"{url}/sign-in")
                if "sign_in" in only or not only:
                    page.screenshot(path=folder / f"sign-in-{width}-{theme}.png", full_page=True)
                    count += 1
                _sign_in(page, url)
                for name, path in wanted.items():
                    page.goto(url + path)
                    page.screenshot(path=folder / f"{name}-{width}-{theme}.png", full_page=True)
                    count += 1
                context.close()
        browser.close()
    return count


# For docs/: what is shown of which page. (file, endpoint, width, theme)
BEST = (
    ("overview", "overview.index", 1280, "light"),
    ("payments", "payments.index", 1280, "light"),
    ("payment", "payments.payment", 1280, "dark"),
    ("discrepancy", "discrepancies.discrepancy", 1280, "light"),
    ("link-on-a-phone", "links.link", 390, "light"),
    ("overview-on-a-phone", "overview.index", 390, "dark"),
)
TITLES = {
    "mug": "Stoneware mug",
    "yen": "Woodblock print",
    "markup": "Seats at the kiln",
    "other": "Espresso set",
}
SHOP = (
    ("Pottery class for two", "USD", "90.00", 14),
    ("Glaze workshop", "USD", "45.00", 22),
    ("Linen scarf", "EUR", "38.50", 17),
    ("Woodblock print", "JPY", "4800", 9),
)


def live_on(books: Books) -> None:
    """Four weeks of a small shop, so that pictures show what a person would see. Only for pictures."""
    shop, chance = books.shop, random.Random(7)
    for title, currency, price, times in SHOP:
        link_id = shop.link(price, currency, title=title)
        shop.request(link_id)
        for _ in range(times):
            shop.pay(link_id)
    shop.deliver()
    shop.check()
    with shop.services.database.begin() as connection:
        found = connection.execute(text("SELECT instance_id, payment_id FROM payments ORDER BY payment_id"))
        for instance_id, payment_id in found.all():
            if payment_id in books.payments.values():
                continue
            ago = timedelta(days=chance.triangular(0, 28, 0), minutes=chance.randrange(600))
            connection.execute(
                text("""
                    UPDATE payments SET created_at = created_at - :ago, transaction_at = transaction_at - :ago
                    WHERE instance_id = :instance_id AND payment_id = :payment_id"""),
                {"ago": ago, "instance_id": instance_id, "payment_id": payment_id},
            )


def take_best(books: Books, folder: Path) -> int:
    """Write the pictures of docs/; returns how many."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit(MISSING)
    person_of_pictures(books)
    some_refunds(books)
    live_on(books)
    where = paths(books)
    with served(books.app) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))
        for name, endpoint, width, theme in BEST:
            context = browser.new_context(
                viewport={"width": width, "height": 860 if width > 1000 else 844},
                color_scheme="dark" if theme == "dark" else "light",
            )
            page = context.new_page()
            _sign_in(page, url)
            page.goto(url + where[endpoint], wait_until="networkidle")
            page.screenshot(path=folder / f"{name}.png")
            context.close()
        browser.close()
    return len(BEST)


def _sign_in(page: Page, url: str) -> None:
    page.goto(f"{url}/sign-in")
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures of every page, wide and narrow, light and dark.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they go (%(default)s)")
    parser.add_argument("--only", default="", help="pages whose name holds this, such as payments")
    parser.add_argument("--docs", action="store_true", help="the few of docs/pictures instead")
    asked = parser.parse_args()
    if asked.docs:
        asked.folder = DOCS
    asked.folder.mkdir(parents=True, exist_ok=True)
    servers = start_servers(durable=False)
    try:
        admin = servers.postgres.url_of("postgres")
        migrated_template(admin, "pictures_template")
        with (
            a_database(admin, "pictures", template="pictures_template") as database_url,
            some_books(database_url, servers.redis_url, titles=TITLES if asked.docs else None) as books,
        ):
            count = take_best(books, asked.folder) if asked.docs else take(books, asked.folder, asked.only)
    finally:
        stop_servers(servers)
    print(f"{count} pictures in {asked.folder}")  # noqa: T201


if __name__ == "__main__":
    main()
