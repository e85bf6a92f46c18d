"""Settings of the migrations."""

from pydantic import DirectoryPath, Field

from services.common.settings import DatabaseSettings, Settings


class MigrationSettings(Settings, DatabaseSettings):
    """What the environment says."""

    wait_seconds: float = Field(
        0.0,
        ge=0,
        description="How long to wait for a database that is away: in a cluster it may start"
        " later.",
    )
    database_users_folder: DirectoryPath | None = Field(
        None, description="Folder with a file per database user that holds its password."
    )
