"""Settings of the local runner. What a service reads itself is passed on to it."""

from pathlib import Path

from pydantic import Field

from services.common.settings import Port, Settings


class LocalSettings(Settings):
    """What the local runner is told from outside; relative folders start where it is called."""

    host: str = Field("127.0.0.1", description="Address of the page and the API.")
    drain_seconds: float = Field(
        0.2, ge=0, description="As for every process; no load balancer stands in front."
    )
    receiver_port: Port = Field(8000, description="The API; 0 takes a free one.")
    frontend_port: Port = Field(8080, description="The page; 0 takes a free one.")
    data_folder: Path = Field(Path("var/local"), description="Rows, pictures and logs of a run.")
    demo_folder: Path = Field(Path("var/demo"), description="The same for the demo, made anew.")
    webhooks_file: Path | None = Field(
        None, description="JSON file with the endpoints of webhooks; without, nobody is told."
    )
    samples_folder: Path = Field(
        Path("var/samples"), description="Where `make samples` puts the demo's photographs."
    )
