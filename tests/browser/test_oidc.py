"""Signing in by OpenID Connect in a real browser: the policy of our pages lets it happen, with scripts and without."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import NewPage
from tests.web.pages import test_oidc as issuers
from tests.web.pages.books import Books
from tests.web.pages.screenshots import served

issuer, oidc = issuers.issuer, issuers.oidc


@pytest.mark.parametrize("scripts", [True, False])
def test_one_is_led_to_the_issuer_and_back(
    oidc: Books, issuer: issuers.Provider, new_page: NewPage, scripts: bool
) -> None:
    issuers.add(oidc, f"{issuer.url} {issuer.subject}")
    page = new_page(java_script_enabled=scripts)
    with served(oidc.app) as url:
        page.goto(f"{url}/account")
        page.get_by_role("button", name="Sign in with your organisation").click()

        expect(page.get_by_role("heading", level=1)).to_have_text("maya")
        assert page.url == f"{url}/account"
    assert "/authorize" in issuer.asked
