"""Logs people in with an OpenID Connect provider: the authorization code flow with PKCE.

Nothing is kept here between leaving for the provider and coming back: it is in a cookie that only
the frontend can read, so that any replica goes on with it.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, cast
from urllib.parse import quote

import httpx
from authlib.oauth2.client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from cryptography.fernet import Fernet, InvalidToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization
from joserfc.jws import JWSRegistry

from services.frontend.adapters.browser import new_secret
from services.frontend.domain.errors import LogInRefusedError, ProviderAwayError

COOKIE: Final = "__Host-oidc"
SECONDS: Final = 600
"""For so long one may be at the provider's."""

CALLBACK: Final = "/log-in/oidc/callback"

# Signatures with a provider's private key. Never none, and never HS256: of who takes both, anybody
# can have a token accepted that is signed with the public key as the shared secret.
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384")
_SKEW_SECONDS: Final = 60
_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Departure:
    """What a browser takes to the provider and back: what the answer must fit, and where to go."""

    state: str
    nonce: str
    verifier: str
    then: str


@dataclass(frozen=True)
class Identity:
    """Whom a provider has identified."""

    issuer: str
    subject: str
    name: str
    groups: frozenset[str]


class OpenIdConnect:
    """One provider; ``key()`` is the frontend's key, from which that of the cookie is made.

    Its metadata and keys are asked for at every log-in, so that new ones hold at once. Raises
    :class:`ProviderAwayError`, and :class:`LogInRefusedError` for an answer that proves nothing.
    """

    def __init__(
        self,
        *,
        issuer: str,
        client_id: str,
        client_secret: Callable[[], str] | None,
        groups_claim: str,
        public_url: str,
        key: Callable[[], str],
    ) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._groups_claim = groups_claim
        self._redirect_uri = f"{public_url}{CALLBACK}"
        self._key = key

    @property
    def name(self) -> str:
        """Return what people know the provider by."""
        return httpx.URL(self._issuer).host

    async def depart(self, then: str) -> tuple[str, str]:
        """Return where to send a browser that is to be led on to ``then``, and its cookie."""
        async with _client() as client:
            metadata = await self._metadata(client)
        departure = Departure(new_secret(), new_secret(), new_secret(), then)
        url, _ = OAuth2Client(
            None,
            self._client_id,
            scope="openid profile",
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
        ).create_authorization_url(
            metadata["authorization_endpoint"],
            state=departure.state,
            nonce=departure.nonce,
            code_verifier=departure.verifier,
        )
        sealed = self._box().encrypt(json.dumps(asdict(departure)).encode())
        return url, sealed.decode().rstrip("=")

    def returned(self, cookie: str | None, state: str) -> Departure:
        """Return what a browser left with, if it comes back with the same ``state``, in time."""
        if cookie:
            padded = cookie + "=" * (-len(cookie) % 4)
            try:
                departure = Departure(**json.loads(self._box().decrypt(padded, ttl=SECONDS)))
            except InvalidToken:
                raise LogInRefusedError from None
            if hmac.compare_digest(departure.state.encode(), state.encode()):
                return departure
        raise LogInRefusedError

    async def identify(self, departure: Departure, code: str) -> Identity:
        """Return who came back with this ``code``."""
        if not code:
            raise LogInRefusedError("the provider gave no code")
        async with _client() as client:
            metadata = await self._metadata(client)
            token = await self._exchange(client, metadata, code, departure.verifier)
            keys = await _json(client.get(metadata["jwks_uri"]))
        claims = self._claims(token, keys, departure.nonce)
        groups = claims.get(self._groups_claim) or []
        name = next(
            (claims[one] for one in ("preferred_username", "name", "email") if claims.get(one)),
            claims["sub"],
        )
        return Identity(
            self._issuer,
            str(claims["sub"]),
            str(name),
            frozenset(map(str, groups if isinstance(groups, list) else [groups])),
        )

    def _box(self) -> Fernet:
        key = hmac.new(self._key().encode(), b"oidc", hashlib.sha256).digest()
        return Fernet(base64.urlsafe_b64encode(key))

    async def _metadata(self, client: httpx.AsyncClient) -> dict[str, Any]:
        url = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        metadata = await _json(client.get(url))
        if metadata.get("issuer") != self._issuer:
            raise ProviderAwayError(f"it calls itself {metadata.get('issuer')!r:.200}")
        for one in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(metadata.get(one), str):
                raise ProviderAwayError(f"its metadata has no {one}")
        return metadata

    async def _exchange(
        self, client: httpx.AsyncClient, metadata: dict[str, Any], code: str, verifier: str
    ) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        auth = httpx.Auth()  # none
        if self._client_secret is None:
            form["client_id"] = self._client_id
        else:
            # In the header, as every provider has to take it (RFC 6749, 2.3.1).
            auth = httpx.BasicAuth(quote(self._client_id, ""), quote(self._client_secret(), ""))
        return await _json(client.post(metadata["token_endpoint"], data=form, auth=auth))

    def _claims(self, token: dict[str, Any], keys: dict[str, Any], nonce: str) -> CodeIDToken:
        try:
            decoded = jwt.decode(
                str(token["id_token"]),
                KeySet.import_key_set(cast("KeySetSerialization", keys)),
                registry=JWSRegistry(algorithms=_ALGORITHMS, strict_check_header=False),
            )
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                {
                    "iss": {"essential": True, "value": self._issuer},
                    "aud": {"essential": True, "value": self._client_id},
                },
                {
                    "nonce": nonce,
                    "client_id": self._client_id,
                    "access_token": token.get("access_token"),
                },
            )
            claims.validate(leeway=_SKEW_SECONDS)
        except (JoseError, KeyError, ValueError, TypeError) as error:
            raise LogInRefusedError(f"{type(error).__name__}: {error}") from error
        return claims


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False)


async def _json(call: Awaitable[httpx.Response]) -> dict[str, Any]:
    """Return the object that a provider answers."""
    try:
        answer = await call
        document = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ProviderAwayError(f"{type(error).__name__}: {error}") from error
    if answer.is_client_error:
        raise LogInRefusedError(f"{answer.url.path} answered {answer.status_code}")
    if answer.is_error or not isinstance(document, dict):
        raise ProviderAwayError(f"{answer.url.path} answered {answer.status_code}")
    return document
