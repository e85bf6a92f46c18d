"""A small OpenID Connect provider over HTTP, with keys of its own, which can be told to lie."""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

CLIENT: Final = "pages of Facestack"
SECRET: Final = "what/only+they know"

Claims = dict[str, Any]
Key = ECKey | RSAKey


def new_key(kid: str) -> ECKey:
    """Return a key pair."""
    return ECKey.generate_key("P-256", {"kid": kid})


def signed(claims: Claims, key: Key) -> str:
    """Return an ID token, as it should be."""
    alg = "RS256" if isinstance(key, RSAKey) else "ES256"
    return jwt.encode({"alg": alg, "kid": key.kid}, claims, key)


@dataclass
class FakeProvider:
    """Lets everybody in as ``user``; ``sign`` makes the ID token of its claims.

    A code is good once, for who shows the verifier of the challenge that it was given for.
    """

    issuer: str = ""
    key: Key = field(default_factory=lambda: new_key("first"))
    published: list[Claims] | None = None
    user: Claims = field(default_factory=lambda: {"sub": "ada-1", "preferred_username": "ada"})
    sign: Callable[[Claims, Key], str | None] = signed
    metadata: Claims = field(default_factory=dict)
    is_broken: bool = False
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def authorize(self, asked: dict[str, str]) -> str:
        """Return where a browser is sent that asks for this."""
        assert asked["client_id"] == CLIENT
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe()
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def token(self, form: dict[str, str], credentials: str) -> tuple[int, Claims]:
        """Return the answer to who wants a token for a code."""
        asked = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        expected = base64.b64encode(b"pages%20of%20Facestack:what%2Fonly%2Bthey%20know").decode()
        if credentials != f"Basic {expected}":
            return 401, {"error": "invalid_client"}
        if not asked or asked["code_challenge"] != challenge:
            return 400, {"error": "invalid_grant"}
        assert form["redirect_uri"] == asked["redirect_uri"]
        now = int(time.time())
        times = {"iat": now, "exp": now + 300}
        claims = {"iss": self.issuer, "aud": CLIENT, "nonce": asked["nonce"], **times, **self.user}
        token = self.sign(claims, self.key)
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": token}

    def get(self, path: str) -> Claims | None:
        """Return a document."""
        return {
            "/.well-known/openid-configuration": {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
                **self.metadata,
            },
            "/keys": {"keys": self.published or [self.key.as_dict(private=False)]},
        }.get(path)


@contextmanager
def serving(provider: FakeProvider) -> Iterator[None]:
    """Serve a provider, which then has its ``issuer``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, provider.get(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = dict(parse_qsl(body))
            self._answer(*provider.token(form, self.headers.get("Authorization", "")))

        def _answer(self, status: int, document: Claims | None) -> None:
            self.send_response(500 if provider.is_broken else status)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.issuer = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        server.shutdown()
        thread.join()


def leave(provider: FakeProvider, url: str) -> str:
    """Do what a person does at the provider; return the address that the browser is sent to."""
    assert url.startswith(f"{provider.issuer}/authorize?")
    return provider.authorize(dict(parse_qsl(urlsplit(url).query)))
