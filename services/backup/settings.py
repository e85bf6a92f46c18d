"""Settings of the backups."""

from pathlib import Path
from tempfile import gettempdir

from pydantic import DirectoryPath, Field

from services.common.settings import (
    CaFile,
    DatabaseSettings,
    ObjectStoreSettings,
    SecretFile,
    Settings,
)


class ArchiveSettings(Settings):
    """What the environment says of where the backups are."""

    backup_store_url: str = Field(
        pattern=r"^(file:///.*|s3://[a-z0-9][a-z0-9.-]+/?)$",
        description="Where backups are: file:///FOLDER or s3://BUCKET, a bucket of its own that is"
        " elsewhere than the pictures.",
    )
    backup_s3_endpoint: str | None = Field(
        None, pattern="^https?://", description="S3 server of that bucket; AWS when not set."
    )
    backup_s3_ca_file: CaFile | None = Field(
        None, description="File with certificates of CAs that this server may have its own from."
    )
    backup_s3_region: str = Field("us-east-1", description="That bucket's region.")
    backup_s3_access_key_id_file: SecretFile | None = Field(
        None, description="File with the key's id; without it the pod's own identity is used."
    )
    backup_s3_secret_access_key_file: SecretFile | None = Field(
        None, description="File with the secret of that key."
    )
    backup_timeout_seconds: int = Field(
        60,
        ge=1,
        le=300,
        description="How long one request to that server may take, 20 MiB included: more on a slow"
        " line.",
    )

    wait_seconds: float = Field(
        0.0,
        ge=0,
        description="How long to wait for a database that is away: network policies let a new pod"
        " in only after a while.",
    )
    backup_folder: DirectoryPath = Field(
        default_factory=lambda: Path(gettempdir()),
        description="Folder for what does not go through memory: 300 bytes for each object, and"
        " with SQLite the whole database.",
    )

    @property
    def archive(self) -> ObjectStoreSettings:
        """The same as settings of a store."""
        return ObjectStoreSettings(
            object_store_url=self.backup_store_url,
            s3_endpoint=self.backup_s3_endpoint,
            s3_ca_file=self.backup_s3_ca_file,
            s3_region=self.backup_s3_region,
            s3_access_key_id_file=self.backup_s3_access_key_id_file,
            s3_secret_access_key_file=self.backup_s3_secret_access_key_file,
            object_store_timeout_seconds=self.backup_timeout_seconds,
        )


class BackupSettings(ArchiveSettings, DatabaseSettings, ObjectStoreSettings):
    """What the environment says."""

    backup_recipient: str | None = Field(
        None,
        description="Public key of age, age1..., that `take` encrypts to; it decrypts nothing.",
    )
    backup_identity_file: SecretFile | None = Field(
        None,
        description="File with the private key of age, AGE-SECRET-KEY-1..., for `restore` alone:"
        " it belongs where no backup is taken.",
    )
    backup_keep_days: int = Field(
        7, ge=1, description="Of so many days that have a backup the newest is kept."
    )
    backup_keep_weeks: int = Field(
        4,
        ge=0,
        description="Of so many weeks, too. What people have deleted is in backups for so long.",
    )
