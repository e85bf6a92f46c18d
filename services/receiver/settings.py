"""Settings of the receiver."""

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from services.common.settings import (
    DatabaseSettings,
    FromEnvironment,
    HttpSettings,
    NsqdSettings,
    ObjectStoreSettings,
    Port,
    RecogniserClientSettings,
    Seconds,
    SecretFile,
    Settings,
    is_loopback,
    read_secret,
)
from services.receiver.domain.access import Role


def _read_roles(listed: str) -> dict[str, Role]:
    """Return the roles of groups, in whose names = may stand; raises ``ValueError``."""
    roles: dict[str, Role] = {}
    for entry in filter(None, (entry.strip() for entry in listed.split(","))):
        group, _, role = (part.strip() for part in entry.rpartition("="))
        if not group or role not in set(Role):
            raise ValueError(f"{entry!r} is not group=role with one of the roles {', '.join(Role)}")
        if group in roles:
            raise ValueError(f"the group {group!r} has two roles: leave the higher one")
        roles[group] = Role(role)
    return roles


_KEY_LENGTH: Final = 20
"""Characters of a key that lies in a file: 120 random bits in base64."""


class AccessSettings(FromEnvironment):
    """Who may ask for anything."""

    access: Literal["keys", "open"] = Field(
        "keys",
        description="keys: every request needs a key or a session. open: everybody may do"
        " everything, only where HOST is of this machine alone.",
    )
    administrator_key_file: SecretFile | None = Field(
        None,
        description="File with a key that may do everything: the first one of an installation, with"
        " which others are made. A new content holds at once.",
    )
    frontend_key_file: SecretFile | None = Field(
        None,
        description="File with the key of the frontend, which alone may say on whose session it"
        " acts; the same there.",
    )
    session_idle_seconds: int = Field(
        8 * 60 * 60,
        ge=300,
        description="How long somebody stays logged in who does nothing, up to a minute less: fewer"
        " where screens are left alone.",
    )
    session_seconds: int = Field(
        7 * 24 * 60 * 60,
        ge=300,
        description="How long somebody stays logged in, whatever they do: fewer where whom the"
        " provider no longer vouches for must be out sooner.",
    )
    oidc_roles: str = Field(
        "",
        description="Which role each group of the OpenID Connect provider has: group=role with"
        " commas between, role being viewer, editor or administrator. The highest counts; who is in"
        " none of these groups does not get in.",
    )

    @field_validator("oidc_roles")
    @classmethod
    def _check_roles(cls, listed: str) -> str:
        _read_roles(listed)
        return listed

    @property
    def roles_of_groups(self) -> Mapping[str, Role]:
        """The role of each group of a provider."""
        return _read_roles(self.oidc_roles)


class KeysSettings(Settings, DatabaseSettings):
    """What the command reads that makes keys; all of it is the receiver's."""


class RateSettings(FromEnvironment):
    """How much one caller may take from the others."""

    submissions_per_minute: int = Field(
        60_000,
        ge=1,
        description="Pictures, by path or uploaded, that one key or user, and one address, may hand"
        " in at one replica: fewer where one must not fill the queue for the others; more for a"
        " program that hands in whole archives. Not counted with ACCESS open.",
    )
    searches_per_minute: int = Field(
        600,
        ge=1,
        description="Faces that one key or user, and one address, may look for at one replica:"
        " fewer against whoever goes through all faces, more for many people behind one address.",
    )


class ReceiverSettings(
    Settings,
    HttpSettings,
    AccessSettings,
    RateSettings,
    DatabaseSettings,
    ObjectStoreSettings,
    RecogniserClientSettings,
    NsqdSettings,
):
    """What the environment says."""

    port: Port = Field(8000, description="Port of the HTTP interface.")
    probe_port: Port = Field(
        9106, description="Port of probes, metrics and the description of the HTTP interface."
    )
    people_target: str = Field(
        "dns:///people:50052", description="gRPC target of people, which finds stored faces."
    )
    people_timeout_seconds: Seconds = Field(
        10.0,
        description="How long people may take for a search: more with many millions of faces on"
        " slow CPUs.",
    )
    max_in_flight: int = Field(
        128,
        ge=1,
        description="Submissions served at once, and as many other requests; further ones get"
        " 429: more for more clients on more CPUs, less to answer those that are served sooner.",
    )
    max_json_bytes: int = Field(
        # 1000 of the longest paths, each character escaped, have 3 MiB.
        8 * 1024 * 1024,
        ge=1024,
        description="Largest JSON body; 1000 of the longest paths fit.",
    )
    backup_max_age_days: float = Field(
        2.0,
        gt=0,
        description="From when on the page and `GET /status` say that the last good backup is old:"
        " more than the time between two. Nothing is said where none was ever tried.",
    )

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        if self.access == "open" and not is_loopback(self.host):
            raise ValueError(
                f"ACCESS open would let everybody who reaches {self.host} read, name and delete"
                " everything: set ACCESS to keys, or HOST to 127.0.0.1"
            )
        for file in (self.administrator_key_file, self.frontend_key_file):
            if file and len(read_secret(file)) < _KEY_LENGTH:
                raise ValueError(
                    f"{file} holds a key that somebody could guess, as nobody slows that down: take"
                    f" {_KEY_LENGTH} random characters or more"
                )
        return self

    @property
    def storing_ms(self) -> int:
        """How long storing may take, from the note of a file to its row.

        That is twelve times as long as the store has for each. What takes longer is refused and
        removed.
        """
        return 12_000 * self.object_store_timeout_seconds
