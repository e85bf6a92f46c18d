"""Settings of the credentials Job; Kubernetes sets the first two in every pod."""

from pathlib import Path

from pydantic import Field

from services.common.settings import Port, Settings


class CredentialsSettings(Settings):
    """What the environment says."""

    kubernetes_service_host: str = Field(description="Address of the API server.")
    kubernetes_service_port: Port = Field(description="Its port.")
    service_account_folder: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="Folder with the files token, ca.crt and namespace.",
    )
    wait_seconds: float = Field(
        0.0, ge=0, description="How long to wait for an API server that refuses or is away."
    )


class IssuingSettings(CredentialsSettings):
    """What the environment says to who issues certificates."""

    certificate_days: float = Field(
        90.0,
        gt=0,
        le=398,
        description="How long a certificate is valid; it is renewed when a third of that is left."
        " More than three times as long as between two runs.",
    )
