"""Signing in by OpenID Connect, at a small issuer on this machine that can be told to misbehave."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest
from flask import Flask, Response, jsonify, redirect, request
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from processor.domain.access import EVERYWHERE, Role
from processor.errors import ConfigurationError
from processor.outgoing import LOCAL
from processor.store import accounts
from processor.web.pages import create_pages
from tests.web.pages.books import Books, Person, empty_books

pytest.importorskip("authlib", reason="signing in by OpenID Connect is an extra")

CLIENT, SECRET = "payments", "s3cret-of-the-client"


@cache
def a_key(kid: str, of: str = "the issuer") -> RSAKey:
    """The same for the same arguments: one takes as long to make as a test."""
    return RSAKey.generate_key(2048, {"kid": kid})


@dataclass
class Provider:
    """held: paths that are answered when the event is set, `arrived` for each.

    claims: changes those of an ID token. sign: makes the token of them. metadata: changes the discovery document.
    """

    url: str = ""
    key: RSAKey = field(default_factory=lambda: a_key("one"))
    stranger: RSAKey = field(default_factory=lambda: a_key("one", of="a stranger"))
    subject: str = "248289"
    claims: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
    sign: Callable[[dict[str, Any]], str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    held: dict[str, threading.Event] = field(default_factory=dict)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def token(self, claims: dict[str, Any]) -> str:
        if self.sign is not None:
            return self.sign(claims)
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)


def issuer_app(provider: Provider) -> Flask:
    app = Flask("issuer")

    @app.before_request
    def note() -> None:
        provider.asked.append(request.path)
        if request.path in provider.held:
            provider.arrived.release()
            provider.held[request.path].wait(30)

    @app.get("/.well-known/openid-configuration")
    def discovery() -> Response:
        return jsonify(
            {
                "issuer": provider.url,
                "authorization_endpoint": f"{provider.url}/authorize",
                "token_endpoint": f"{provider.url}/token",
                "jwks_uri": f"{provider.url}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
                **provider.metadata,
            }
        )

    @app.get("/keys")
    def keys() -> Response:
        return jsonify({"keys": [provider.key.as_dict(private=False)]})

    @app.get("/authorize")
    def authorize() -> Any:
        asked = request.args
        assert (asked["response_type"], asked["client_id"], asked["scope"]) == ("code", CLIENT, "openid")
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(provider.codes)}"
        provider.codes[code] = dict(asked)
        return redirect(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}", 302)

    @app.post("/token")
    def token() -> Any:
        began = provider.codes.pop(request.form["code"], None)
        credentials = request.authorization
        challenge = base64.urlsafe_b64encode(
            hashlib.sha256(request.form.get("code_verifier", "").encode()).digest()
        )
        if (
            began is None
            or credentials is None
            or (credentials.username, credentials.password) != (CLIENT, SECRET)
            or challenge.decode().rstrip("=") != began["code_challenge"]
            or request.form["redirect_uri"] != began["redirect_uri"]
        ):
            return jsonify({"error": "invalid_grant"}), 400
        now = int(time.time())
        claims = {
            "iss": provider.url,
            "sub": provider.subject,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": began["nonce"],
        }
        proof = provider.token(provider.claims(claims))
        return jsonify({"access_token": "a", "token_type": "Bearer", "id_token": proof})

    return app


@pytest.fixture(scope="module")
def issuer() -> Iterator[Provider]:
    provider = Provider()
    server = make_server("127.0.0.1", 0, issuer_app(provider), threaded=True)
    provider.url = f"http://127.0.0.1:{server.port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield provider
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def oidc(issuer: Provider, database_url: str, redis_url: str) -> Iterator[Books]:
    fresh = Provider(url=issuer.url, key=issuer.key, stranger=issuer.stranger)
    issuer.__dict__.update(fresh.__dict__)
    settings = {"OIDC_ISSUER": issuer.url, "OIDC_CLIENT_ID": CLIENT, "OIDC_CLIENT_SECRET": SECRET}
    with empty_books(database_url, redis_url, at_noon=False, **settings) as books:
        yield books


def add(books: Books, subject: str, name: str = "maya") -> None:
    with books.shop.services.database.begin() as connection:
        accounts.add(
            connection,
            name,
            (Role.CLERK,),
            reach=EVERYWHERE,
            sees_personal=False,
            password_hash=None,
            oidc_subject=subject,
            now=books.shop.services.now(),
        )


def leave(person: Person, **form: str) -> str:
    """Begin, and return where one is led to."""
    answer = person.post("/sign-in/oidc", form)
    assert answer.status_code == 200, answer.text
    seconds, _, address = answer.headers["Refresh"].partition("; url=")
    assert seconds == "0"
    assert address.replace("&", "&amp;") in answer.text, "for who does not follow by itself"
    return address


def back_from(address: str) -> str:
    """Sign in at the issuer; the path it leads back to."""
    answer = httpx2.get(address, **LOCAL)
    assert answer.status_code == 302, answer.text
    parts = urlsplit(answer.headers["Location"])
    return f"{parts.path}?{parts.query}"


def sign_in(person: Person, **form: str) -> TestResponse:
    return person.get(back_from(leave(person, **form)))


def test_one_signs_in_at_the_issuer_and_comes_back_to_where_one_wanted(oidc: Books, issuer: Provider) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")
    nobody = oidc.nobody()

    answer = sign_in(nobody, next="/account?a=1")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/account?a=1")
    assert "maya" in nobody.read("/account")
    assert [row.action for row in oidc.shop.rows("SELECT action FROM actions ORDER BY action_id")] == [
        "signed_in"
    ]


def test_the_page_of_signing_in_offers_it_and_its_policy_stays_strict(oidc: Books, books: Books) -> None:
    answer = oidc.nobody().get("/sign-in")

    assert "Sign in with your organisation" in answer.text
    assert "form-action 'self';" in answer.headers["Content-Security-Policy"]
    assert "with your organisation" not in books.nobody().read("/sign-in")
    assert books.nobody().post("/sign-in/oidc").status_code == 404


def test_who_has_no_account_is_told_what_to_ask_for_and_none_is_made(oidc: Books, issuer: Provider) -> None:
    answer = sign_in(oidc.nobody())

    assert answer.status_code == 403
    assert f"{issuer.url} {issuer.subject}" in answer.text
    assert oidc.shop.rows("SELECT FROM accounts") == []
    assert issuer.subject not in str(oidc.shop.rows("SELECT * FROM actions"))


def test_a_disabled_account_is_refused(oidc: Books, issuer: Provider) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")
    with oidc.shop.services.database.begin() as connection:
        held = accounts.of_subject(connection, f"{issuer.url} {issuer.subject}")
        assert held is not None
        accounts.change(
            connection,
            held,
            roles=held.roles,
            reach=held.reach,
            sees_personal=False,
            is_disabled=True,
            now=oidc.shop.services.now(),
        )
    nobody = oidc.nobody()

    assert sign_in(nobody).status_code == 403
    assert nobody.get("/account").status_code == 303


# -- What proves nothing ------------------------------------------------------------------------------


def _unsigned(claims: dict[str, Any]) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(claims)}."


WRONG_CLAIMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "nonce": lambda claims: {**claims, "nonce": "another"},
    "no nonce": lambda claims: {name: value for name, value in claims.items() if name != "nonce"},
    "audience": lambda claims: {**claims, "aud": "another"},
    "audience of several without a party": lambda claims: {**claims, "aud": [CLIENT, "another"]},
    "party": lambda claims: {**claims, "azp": "another"},
    "issuer": lambda claims: {**claims, "iss": "https://evil.example"},
    "expired": lambda claims: {**claims, "exp": claims["iat"] - 3600},
    "no expiry": lambda claims: {name: value for name, value in claims.items() if name != "exp"},
    "issued tomorrow": lambda claims: {
        **claims,
        "iat": claims["iat"] + 86_400,
        "exp": claims["exp"] + 86_400,
    },
    "no subject": lambda claims: {name: value for name, value in claims.items() if name != "sub"},
    "subject of another kind": lambda claims: {**claims, "sub": 248289},
    "subject with a line": lambda claims: {**claims, "sub": "a\nb"},
}


@pytest.mark.parametrize("name", WRONG_CLAIMS)
def test_a_token_that_proves_something_else_is_refused(oidc: Books, issuer: Provider, name: str) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")
    issuer.claims = WRONG_CLAIMS[name]
    nobody = oidc.nobody()

    answer = sign_in(nobody)

    assert answer.status_code == 401
    assert "did not confirm who you are" in answer.text
    assert nobody.get("/account").status_code == 303


@pytest.mark.parametrize("name", ["none", "secret", "public key as secret", "stranger", "no token"])
def test_a_token_that_the_issuer_did_not_sign_is_refused(oidc: Books, issuer: Provider, name: str) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")
    issuer.sign = {
        "none": _unsigned,
        "secret": lambda claims: jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET + SECRET)),
        "public key as secret": lambda claims: jwt.encode(
            {"alg": "HS256", "kid": "one"}, claims, OctKey.import_key(issuer.key.as_bytes(private=False))
        ),
        "stranger": lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, issuer.stranger),
        "no token": lambda _: "not.a.token",
    }[name]
    nobody = oidc.nobody()

    assert sign_in(nobody).status_code == 401
    assert nobody.get("/account").status_code == 303


def test_a_list_of_audiences_with_us_as_the_party_is_good(oidc: Books, issuer: Provider) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")
    issuer.claims = lambda claims: {**claims, "aud": [CLIENT, "another"], "azp": CLIENT}

    assert sign_in(oidc.nobody()).status_code == 303


def test_a_key_that_is_new_is_asked_for(
    oidc: Books, issuer: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.web.pages import oidc as module

    monkeypatch.setattr(module, "KEYS_AGAIN_SECONDS", 0.0)
    add(oidc, f"{issuer.url} {issuer.subject}")
    assert sign_in(oidc.nobody()).status_code == 303
    old, issuer.key = issuer.key, a_key("two")
    try:
        assert sign_in(oidc.nobody()).status_code == 303
    finally:
        issuer.key = old
    assert issuer.asked.count("/.well-known/openid-configuration") == 1


# -- What was not begun here --------------------------------------------------------------------------


def test_an_answer_that_this_browser_did_not_ask_for_is_refused(oidc: Books, issuer: Provider) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")
    path = back_from(leave(oidc.nobody()))
    victim, other = oidc.nobody(), oidc.nobody()
    leave(other)

    assert victim.get(path).status_code == 400
    assert other.get(path).status_code == 401
    assert victim.get("/account").status_code == 303


@pytest.mark.parametrize(
    "change",
    [
        {"state": "another"},
        {"state": "\udcff"},
        {"state": ""},
        {"code": ""},
        {"code": "x" * 10_000},
        {"code": "unknown"},
        {"iss": "https://evil.example"},
    ],
)
def test_an_answer_that_was_tampered_with_is_refused(
    oidc: Books, issuer: Provider, change: dict[str, str]
) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")
    nobody = oidc.nobody()
    path, _, query = back_from(leave(nobody)).partition("?")
    given = {**dict(parse_qsl(query)), **change}

    answer = nobody.get(f"{path}?{urlencode(given, errors='surrogateescape')}")

    assert answer.status_code == 401
    assert nobody.get("/account").status_code == 303


def test_an_answer_counts_once(oidc: Books, issuer: Provider) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")
    nobody = oidc.nobody()
    path = back_from(leave(nobody))

    assert nobody.get(path).status_code == 303
    assert nobody.get(path).status_code == 400


def test_who_took_too_long_begins_anew(oidc: Books, issuer: Provider) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")
    nobody = oidc.nobody()
    path = back_from(leave(nobody))

    oidc.shop.pass_time(timedelta(minutes=16))

    assert nobody.get(path).status_code == 400


def test_who_refuses_at_the_issuer_is_back_at_the_door(oidc: Books) -> None:
    nobody = oidc.nobody()
    state = dict(parse_qsl(urlsplit(leave(nobody)).query))["state"]

    answer = nobody.get(f"/sign-in/oidc/return?error=access_denied&error_description=%3Cb%3E&state={state}")

    assert answer.status_code == 401
    assert "<b>" not in answer.text


def test_one_is_led_to_our_own_pages_alone(oidc: Books, issuer: Provider) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")

    assert sign_in(oidc.nobody(), next="//evil.example").headers["Location"] == "/"


def test_it_begins_by_a_form_of_ours_and_not_without_end(
    oidc: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.web.pages import oidc as module

    monkeypatch.setattr(module, "BY_ADDRESS", "3 per 10 minutes")
    nobody = oidc.nobody()

    assert nobody.client.post("/sign-in/oidc").status_code == 400
    statuses = [nobody.post("/sign-in/oidc").status_code for _ in range(4)]
    assert statuses == [200] * 3 + [429]
    [row] = oidc.shop.rows("SELECT detail FROM actions WHERE action = 'sign_in_throttled'")
    assert row.detail == {"limit": "3 per 10 minutes from one network"}


# -- An issuer that is not as it should be ------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"authorization_endpoint": "http://evil.example/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"token_endpoint": None},
        {"jwks_uri": 7},
    ],
)
def test_an_issuer_that_says_odd_things_of_itself_is_not_followed(
    oidc: Books, issuer: Provider, metadata: dict[str, Any]
) -> None:
    issuer.metadata = metadata

    answer = oidc.nobody().post("/sign-in/oidc")

    assert answer.status_code == 503
    assert "Refresh" not in answer.headers


def test_an_issuer_that_is_away_says_so(oidc: Books, books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    services = oidc.shop.services
    settings = replace(services.settings, oidc_issuer="http://127.0.0.1:1")
    away = Person(create_pages(replace(services, settings=settings)).test_client())

    answer = away.post("/sign-in/oidc")

    assert answer.status_code == 503
    assert "does not answer" in answer.text


def test_while_an_issuer_hangs_one_waits_for_it_and_the_others_are_told(
    oidc: Books, issuer: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.web.pages import oidc as module

    monkeypatch.setattr(module, "ANSWER_SECONDS", 30.0)
    monkeypatch.setattr(module, "BRIEF_SECONDS", 0.05)
    let_go = issuer.held["/.well-known/openid-configuration"] = threading.Event()
    first, found = oidc.nobody(), []
    thread = threading.Thread(target=lambda: found.append(first.post("/sign-in/oidc").status_code))
    thread.start()
    assert issuer.arrived.acquire(timeout=30)
    try:
        others = [oidc.nobody().post("/sign-in/oidc") for _ in range(3)]
        assert not found, "nobody waited for the first"
    finally:
        let_go.set()
        thread.join()

    assert [one.status_code for one in others] == [503] * 3
    assert "does not answer" in others[0].text
    assert found == [200]
    assert oidc.nobody().post("/sign-in/oidc").status_code == 200
    assert len(issuer.asked) == 1


def test_an_issuer_that_hangs_over_codes_holds_few_threads(
    oidc: Books, issuer: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.web.pages import oidc as module

    monkeypatch.setattr(module, "ANSWER_SECONDS", 30.0)
    monkeypatch.setattr(module, "BRIEF_SECONDS", 0.05)
    add(oidc, f"{issuer.url} {issuer.subject}")
    people = [oidc.nobody() for _ in range(module.EXCHANGES_AT_ONCE + 2)]
    addresses = [back_from(leave(one)) for one in people]
    let_go = issuer.held["/token"] = threading.Event()
    found: list[int] = []

    def come_back(number: int) -> None:
        found.append(people[number].get(addresses[number]).status_code)

    threads = [threading.Thread(target=come_back, args=(n,)) for n in range(module.EXCHANGES_AT_ONCE)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert issuer.arrived.acquire(timeout=30)
        other = people[-1].get(addresses[-1])
        assert not found, "nobody waited for those who hang"
    finally:
        let_go.set()
        for thread in threads:
            thread.join()
    del issuer.held["/token"]

    assert other.status_code == 503
    assert "does not answer" in other.text
    assert found == [303] * module.EXCHANGES_AT_ONCE
    assert people[-2].get(addresses[-2]).status_code == 303, "the places are free again"


def test_an_issuer_that_timed_out_over_a_code_is_left_alone_for_a_while(
    oidc: Books, issuer: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.web.pages import oidc as module

    add(oidc, f"{issuer.url} {issuer.subject}")
    first, second, third = (oidc.nobody() for _ in range(3))
    addresses = [back_from(leave(one)) for one in (first, second, third)]
    let_go = issuer.held["/token"] = threading.Event()
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    try:
        timed_out = first.get(addresses[0])
        asked = issuer.asked.count("/token")
        left_alone = second.get(addresses[1])
        assert issuer.asked.count("/token") == asked
    finally:
        let_go.set()
    del issuer.held["/token"]
    monkeypatch.setattr(module, "ANSWER_SECONDS", 30.0)
    monkeypatch.setattr(module, "FAILED_SECONDS", 0.0)

    assert (timed_out.status_code, left_alone.status_code) == (503, 503)
    assert third.get(addresses[2]).status_code == 303


def test_an_issuer_whose_keys_cannot_be_had_says_nothing_of_who_signs_in(
    oidc: Books, issuer: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.web.pages import oidc as module

    add(oidc, f"{issuer.url} {issuer.subject}")
    people = [oidc.nobody() for _ in range(2)]
    addresses = [back_from(leave(one)) for one in people]
    let_go = issuer.held["/keys"] = threading.Event()
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    try:
        answers = [one.get(address) for one, address in zip(people, addresses, strict=True)]
    finally:
        let_go.set()

    assert [one.status_code for one in answers] == [503, 503]
    assert "does not answer" in answers[0].text
    assert not oidc.shop.rows("SELECT 1 AS one FROM actions WHERE action = 'sign_in_failed'")


def test_an_issuer_that_failed_is_left_alone_for_a_while(
    oidc: Books, issuer: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.web.pages import oidc as module

    issuer.metadata = {"token_endpoint": None}
    assert oidc.nobody().post("/sign-in/oidc").status_code == 503
    issuer.metadata = {}

    assert oidc.nobody().post("/sign-in/oidc").status_code == 503
    assert len(issuer.asked) == 1
    monkeypatch.setattr(module, "FAILED_SECONDS", 0.0)
    assert oidc.nobody().post("/sign-in/oidc").status_code == 200


def test_what_was_known_serves_while_it_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from processor.web.pages import oidc as module

    monkeypatch.setattr(module, "BRIEF_SECONDS", 0.0)
    asked, go_on, number = threading.Semaphore(0), threading.Event(), iter(range(9))

    def ask() -> int:
        asked.release()
        go_on.wait(30)
        return next(number)

    go_on.set()
    said = module.Said(ask)
    assert (said.get(60), said.get(60)) == (0, 0)
    go_on.clear()
    assert asked.acquire(timeout=30)
    thread = threading.Thread(target=said.get, args=(0,))
    thread.start()
    try:
        assert asked.acquire(timeout=30)
        assert said.get(0) == 0
    finally:
        go_on.set()
        thread.join()
    assert said.get(60) == 1


@pytest.mark.parametrize(
    ("next_", "where"),
    [
        ("/" + "a" * 999, "/" + "a" * 999),
        ("/" + "a" * 1_000, "/"),
        ("/" + "a" * 100_000, "/"),
        ("/" + "\N{SNOWMAN}" * 400, "/"),
    ],
)
def test_where_one_wanted_is_remembered_only_if_it_fits_into_a_cookie(
    oidc: Books, issuer: Provider, next_: str, where: str
) -> None:
    add(oidc, f"{issuer.url} {issuer.subject}")

    assert sign_in(oidc.nobody(), next=next_).headers["Location"] == where


def test_without_the_extra_the_pages_say_what_to_install(
    oidc: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "authlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "authlib", None)
    monkeypatch.delitem(sys.modules, "processor.web.pages.oidc", raising=False)
    monkeypatch.delattr("processor.web.pages.oidc", raising=False)

    with pytest.raises(ConfigurationError, match=r"\[oidc\]"):
        create_pages(oidc.shop.services)
