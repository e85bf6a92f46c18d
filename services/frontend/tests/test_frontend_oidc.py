"""Logging in with an OpenID Connect provider: who is let in, and what proves nothing."""

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.fernet import Fernet
from joserfc.jwk import RSAKey
from joserfc.util import urlsafe_b64encode

from services.frontend.adapters import oidc
from services.frontend.settings import FrontendSettings
from services.frontend.tests.conftest import browsing
from services.frontend.tests.fake_provider import (
    CLIENT,
    SECRET,
    Claims,
    FakeProvider,
    Key,
    leave,
    new_key,
    serving,
    signed,
)
from services.frontend.tests.fake_receiver import FRONTEND_KEY, TOKEN, FakeReceiver, problem

PAGE: Final = "https://page.example"
AGAIN: Final = "The provider has not said who you are"
AWAY: Final = "The provider does not answer as it should"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    one = FakeProvider()
    with serving(one):
        yield one


@pytest.fixture
async def browser(
    provider: FakeProvider, receiver: FakeReceiver, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    (tmp_path / "key").write_text(FRONTEND_KEY)
    (tmp_path / "secret").write_text(SECRET)
    settings = FrontendSettings(
        receiver_key_file=tmp_path / "key",
        public_url=PAGE,
        allowed_hosts="page.example",
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT,
        oidc_client_secret_file=tmp_path / "secret",
    )
    async with browsing(receiver, settings, PAGE) as one:
        yield one


async def depart(browser: httpx.AsyncClient, provider: FakeProvider) -> str:
    """Go to the provider; return the address with which it sends the browser back."""
    answer = await browser.get("/log-in/oidc?then=/people")
    assert answer.status_code == 303, answer.text
    return leave(provider, answer.headers["location"])


async def test_who_the_provider_knows_is_logged_in(
    browser: httpx.AsyncClient, provider: FakeProvider, receiver: FakeReceiver
) -> None:
    assert 'href="/log-in/oidc?then=%2Fwho"' in (await browser.get("/log-in?then=/who")).text
    provider.user["groups"] = ["staff", "editors"]
    answer = await browser.get(await depart(browser, provider))
    assert (answer.status_code, answer.headers["location"]) == (303, "/people")
    assert receiver.sent("POST /sessions") == {
        "issuer": provider.issuer,
        "subject": "ada-1",
        "name": "ada",
        "groups": ["editors", "staff"],
    }
    assert dict(browser.cookies) == {"__Host-session": TOKEN}


async def test_a_cookie_tells_nobody_what_it_holds(
    browser: httpx.AsyncClient, provider: FakeProvider
) -> None:
    answer = await browser.get("/log-in/oidc")
    [cookie] = answer.headers.get_list("set-cookie")
    assert cookie.startswith("__Host-oidc=")
    for part in ("HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=600"):
        assert f"; {part}" in cookie
    state = parse_qs(urlsplit(answer.headers["location"]).query)["state"][0]
    assert state not in cookie
    assert "=" not in cookie.partition(";")[0].partition("=")[2]


def without(claim: str) -> Callable[[Claims, Key], str]:
    """Return a provider's signature of claims without one."""
    return lambda claims, key: signed({k: v for k, v in claims.items() if k != claim}, key)


def but(**others: Any) -> Callable[[Claims, Key], str]:
    """Return a provider's signature of other claims."""
    return lambda claims, key: signed({**claims, **others}, key)


def later(claim: str, seconds: int) -> Callable[[Claims, Key], str]:
    """Return a provider's signature of a time so long after now."""
    return lambda claims, key: signed({**claims, claim: int(time.time()) + seconds}, key)


def unsigned(claims: Claims, _: Key) -> str:
    """Return a token with the algorithm none."""
    return f"{_unsigned({'alg': 'none'}, claims)}."


def with_public_key_as_secret(encoding: Literal["PEM", "DER"]) -> Callable[[Claims, Key], str]:
    """Return an HMAC whose secret is what everybody knows: the public key."""

    def sign(claims: Claims, key: Key) -> str:
        text = _unsigned({"alg": "HS256", "kid": key.kid}, claims)
        secret = key.as_bytes(encoding, private=False)
        return f"{text}.{urlsafe_b64encode(hmac.digest(secret, text.encode(), 'sha256')).decode()}"

    return sign


def _unsigned(header: dict[str, Any], claims: Claims) -> str:
    parts = (urlsafe_b64encode(json.dumps(part).encode()).decode() for part in (header, claims))
    return ".".join(parts)


def with_other_key(kid: str) -> Callable[[Claims, Key], str]:
    """Return the signature of another key, which calls itself so."""
    return lambda claims, _: signed(claims, new_key(kid))


IDENTIFIED: Final[dict[str, Callable[[Claims, Key], str | None]]] = {
    "as it should be": signed,
    "several audiences, for us": but(aud=[CLIENT, "others"], azp=CLIENT),
    "a clock that is behind ours": later("exp", -50),
    "a clock that is ahead of ours": later("iat", 50),
}

NOT_IDENTIFIED: Final[dict[str, Callable[[Claims, Key], str | None]]] = {
    "no token": lambda _, __: None,
    "no token at all": lambda _, __: "at all",
    "algorithm none": unsigned,
    "HS256 with the public key, PEM": with_public_key_as_secret("PEM"),
    "HS256 with the public key, DER": with_public_key_as_secret("DER"),
    "another key of the same name": with_other_key("first"),
    "a key that is not published": with_other_key("unknown"),
    "for somebody else": but(aud="somebody else"),
    "for somebody else, asked for by us": but(aud="somebody else", azp=CLIENT),
    "for several, by somebody else": but(aud=[CLIENT, "others"], azp="others"),
    "for several, nobody says which": but(aud=[CLIENT, "others"]),
    "another issuer": but(iss="https://evil.example"),
    "expired": later("exp", -70),
    "of the future": later("iat", 70),
    "not valid yet": later("nbf", 70),
    "another nonce": but(nonce="of another log-in"),
    **{f"no {claim}": without(claim) for claim in ("iss", "aud", "exp", "iat", "sub", "nonce")},
    "expires at no time": but(exp="never"),
}


async def test_an_id_token_is_believed_that_proves_who_it_is(
    browser: httpx.AsyncClient, provider: FakeProvider, receiver: FakeReceiver
) -> None:
    for case, sign in {**IDENTIFIED, **NOT_IDENTIFIED}.items():
        receiver.calls.clear()
        provider.sign = sign
        answer = await browser.get(await depart(browser, provider))
        if case in IDENTIFIED:
            assert answer.status_code == 303, (case, answer.text)
            continue
        assert answer.status_code == 401, case
        assert AGAIN in answer.text, case
        assert receiver.calls == [], case
        assert "__Host-oidc" not in browser.cookies


async def test_a_new_key_holds_at_once_and_an_old_one_no_more(
    browser: httpx.AsyncClient, provider: FakeProvider
) -> None:
    assert (await browser.get(await depart(browser, provider))).status_code == 303
    old, provider.key = provider.key, RSAKey.generate_key(2048, {"kid": "second"})
    assert (await browser.get(await depart(browser, provider))).status_code == 303
    provider.sign = lambda claims, _: signed(claims, old)
    assert (await browser.get(await depart(browser, provider))).status_code == 401
    # While both are published, and another that is of no use for signatures.
    keys = [key.as_dict(private=False) for key in (provider.key, old)]
    provider.published = [*keys, {"kty": "new kind", "kid": "third"}]
    assert (await browser.get(await depart(browser, provider))).status_code == 303


async def test_what_comes_back_must_fit_what_left_this_browser(
    browser: httpx.AsyncClient, provider: FakeProvider, receiver: FakeReceiver
) -> None:
    def keep(cookie: str) -> None:
        browser.cookies.clear()
        browser.cookies.set("__Host-oidc", cookie, domain="page.example")

    other = await depart(browser, provider)
    others_cookie = browser.cookies["__Host-oidc"]
    ours = await depart(browser, provider)
    cookie = browser.cookies["__Host-oidc"]
    key = hmac.digest(FRONTEND_KEY.encode(), b"oidc", "sha256")
    box = Fernet(base64.urlsafe_b64encode(key))
    padded = cookie + "=" * (-len(cookie) % 4)
    late = box.encrypt_at_time(box.decrypt(padded), int(time.time()) - oidc.SECONDS - 5)
    code = parse_qs(urlsplit(ours).query)["code"][0]
    state = parse_qs(urlsplit(ours).query)["state"][0]
    others_code = parse_qs(urlsplit(other).query)["code"][0]
    refused = [
        ("no cookie", "", ours),
        ("the cookie of another log-in", others_cookie, ours),
        ("the address of another log-in", cookie, other),
        ("another state", cookie, f"{oidc.CALLBACK}?code={code}&state=x"),
        ("a state that no header can hold", cookie, f"{oidc.CALLBACK}?code={code}&state=%C3%A4"),
        ("no state", cookie, f"{oidc.CALLBACK}?code={code}"),
        ("no code", cookie, f"{oidc.CALLBACK}?state={state}"),
        ("an error", cookie, f"{oidc.CALLBACK}?error=access_denied&state={state}"),
        ("somebody else's code", cookie, f"{oidc.CALLBACK}?code={others_code}&state={state}"),
        ("a cookie that was changed", cookie[:-2] + "AA", ours),
        ("a cookie of more than ten minutes ago", late.decode().rstrip("="), ours),
    ]
    for case, shown, address in refused:
        keep(shown)
        answer = await browser.get(address)
        assert answer.status_code == 401, case
        assert AGAIN in answer.text
        assert "access_denied" not in answer.text
    assert receiver.calls == []
    keep(cookie)
    assert (await browser.get(ours)).status_code == 303
    assert (await browser.get(ours)).status_code == 401
    keep(cookie)  # replayed: the provider takes no code twice
    assert (await browser.get(ours)).status_code == 401
    assert receiver.calls == ["POST /sessions"]


async def test_a_provider_that_is_away_or_another_one_is_said(
    browser: httpx.AsyncClient, provider: FakeProvider
) -> None:
    back = await depart(browser, provider)
    provider.is_broken = True
    for address in (back, "/log-in/oidc"):
        answer = await browser.get(address)
        assert (answer.status_code, AWAY in answer.text) == (503, True)
    provider.is_broken = False
    for metadata in ({"issuer": "https://evil.example"}, {"token_endpoint": None}):
        provider.metadata = metadata
        answer = await browser.get("/log-in/oidc")
        assert (answer.status_code, AWAY in answer.text) == (503, True)


async def test_who_may_not_log_in_reads_why(
    browser: httpx.AsyncClient, provider: FakeProvider, receiver: FakeReceiver
) -> None:
    receiver.answers = {"POST /sessions": problem(403, "this account is in none of the groups")}
    answer = await browser.get(await depart(browser, provider))
    assert (answer.status_code, "in none of the groups" in answer.text) == (403, True)
    assert "__Host-session" not in browser.cookies


async def test_names_and_groups_are_what_the_provider_says_of_them(
    browser: httpx.AsyncClient, provider: FakeProvider, receiver: FakeReceiver
) -> None:
    said: list[tuple[Claims, str, list[str]]] = [
        ({"sub": "1", "name": "Ada L.", "groups": "one"}, "Ada L.", ["one"]),
        ({"sub": "1", "email": "a@b.example", "groups": None}, "a@b.example", []),
        ({"sub": "1", "groups": [1, "b"]}, "1", ["1", "b"]),
    ]
    for user, name, groups in said:
        receiver.calls.clear()
        receiver.bodies.clear()
        provider.user = user
        assert (await browser.get(await depart(browser, provider))).status_code == 303
        body = receiver.sent("POST /sessions")
        assert (body["name"], body["groups"]) == (name, groups)


def test_a_provider_needs_what_makes_it_safe(tmp_path: Path) -> None:
    for issuer in ("http://evil.example", "ftp://a", "http://localhost.evil.example"):
        with pytest.raises(ValueError, match="oidc_issuer"):
            FrontendSettings(oidc_issuer=issuer)
    with pytest.raises(ValueError, match="needs RECEIVER_KEY_FILE, PUBLIC_URL, OIDC_CLIENT_ID"):
        FrontendSettings(oidc_issuer="https://a.example")
