"""Settings of the migrations."""

from services.common.settings import DatabaseSettings, Settings


class MigrationSettings(Settings, DatabaseSettings):
    """What the environment says."""
