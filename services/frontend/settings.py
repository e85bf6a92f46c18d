"""Settings of the frontend."""

from typing import Self

from pydantic import Field, model_validator

from services.common.settings import (
    FromEnvironment,
    HttpSettings,
    Port,
    Seconds,
    SecretFile,
    Settings,
)


class LogInSettings(FromEnvironment):
    """Who may see the pages."""

    receiver_key_file: SecretFile | None = Field(
        None,
        description="File with the key that is the receiver's FRONTEND_KEY_FILE. With it people"
        " have to log in; without, everybody sees and does everything, if the receiver is open. A"
        " new content holds at once.",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#]+$",
        description="Where people reach the pages, for example https://faces.example.org: the"
        " provider leads back there.",
    )
    oidc_issuer: str | None = Field(
        None,
        pattern=r"^(https://|http://(localhost|127\.0\.0\.1)[:/])",
        description="OpenID Connect provider with which people may log in, as it names itself;"
        " plain HTTP only on this machine.",
    )
    oidc_client_id: str | None = Field(None, description="What that provider calls these pages.")
    oidc_client_secret_file: SecretFile | None = Field(
        None, description="File with the secret for it; without one, PKCE alone proves who asks."
    )
    oidc_groups_claim: str = Field(
        "groups",
        description="Claim of its ID tokens that lists the groups of which the receiver's"
        " OIDC_ROLES makes roles.",
    )

    @model_validator(mode="after")
    def _check_oidc(self) -> Self:
        needed = {
            "RECEIVER_KEY_FILE": self.receiver_key_file,
            "PUBLIC_URL": self.public_url,
            "OIDC_CLIENT_ID": self.oidc_client_id,
        }
        missing = [name for name, value in needed.items() if value is None]
        if self.oidc_issuer and missing:
            raise ValueError(f"OIDC_ISSUER needs {', '.join(missing)}, too")
        return self


class FrontendSettings(Settings, HttpSettings, LogInSettings):
    """Where to listen and where the receiver answers."""

    port: Port = Field(8080, description="HTTP port of the pages.")
    probe_port: Port = Field(9107, description="Port of probes and metrics.")
    receiver_url: str = Field(
        "http://127.0.0.1:8000", pattern="^https?://", description="Base URL of the receiver."
    )
    receiver_timeout_seconds: Seconds = Field(
        15.0,
        description="How long the receiver may take for an answer before the page says that it is"
        " away: more on a machine that is busy with a rollout, where late is better than away.",
    )
    upload_timeout_seconds: Seconds = Field(
        60.0,
        description="The same for what sends pictures, exports or has faces cut out, of a group"
        " up to ten: more where the object store or face_recog is slow.",
    )
