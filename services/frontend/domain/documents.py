"""The base of what the receiver answers."""

from pydantic import BaseModel, ConfigDict

from services.frontend.domain.words import fingerprint


class ReceiverDocument(BaseModel):
    """What a receiver answers; it may say more, as a newer one does."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @property
    def version(self) -> str:
        """Return a text that changes with anything that is shown."""
        return fingerprint(self.model_dump_json())
