"""Create the Secrets that the arguments name, with random values."""

import argparse
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from services.common import logs
from services.common.jobs import end_on_sigterm, persist
from services.common.settings import load
from services.credentials.cluster import connected
from services.credentials.settings import CredentialsSettings

_VALUE_BYTES: Final = 32
# What Kubernetes takes as the name of a Secret, and as a key in it.
_NAME: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_KEY: Final = re.compile(r"(?!\.\.?$)[-._a-zA-Z0-9]{1,253}")


@dataclass(frozen=True)
class Order:
    """A Secret to be made."""

    name: str
    keys: tuple[str, ...]


def _order(argument: str) -> Order:
    name, _, rest = argument.partition("=")
    keys = tuple(rest.split(","))
    if not _NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{argument!r}: {name!r} is no name of a Secret")
    for key in keys:
        if not _KEY.fullmatch(key):
            raise argparse.ArgumentTypeError(f"{argument!r}: {key!r} is no key of a Secret")
    if len(set(keys)) < len(keys):
        raise argparse.ArgumentTypeError(f"{argument!r}: a key is there twice")
    return Order(name, keys)


def parse(arguments: Sequence[str] | None) -> list[Order]:
    """Return what the arguments ask for, or end the process with usage."""
    parser = argparse.ArgumentParser(
        prog="python -m services.credentials",
        description="Create Secrets with random values. One that exists is left alone.",
    )
    parser.add_argument("orders", nargs="+", type=_order, metavar="SECRET=KEY[,KEY]")
    orders: list[Order] = parser.parse_args(arguments).orders
    names = [order.name for order in orders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        parser.error(f"named twice: {', '.join(twice)}")
    return orders


def main(arguments: Sequence[str] | None = None) -> None:
    """Create what is missing."""
    end_on_sigterm()
    orders = parse(arguments)
    settings = load(CredentialsSettings)
    logs.configure("credentials", settings.log_level)
    log = structlog.get_logger("services.credentials")
    with connected(settings, "credentials") as cluster:
        for order in orders:
            values = {key: secrets.token_urlsafe(_VALUE_BYTES) for key in order.keys}
            created = persist(
                partial(cluster.create_secret, order.name, values),
                seconds=settings.wait_seconds,
            )
            log.info(
                "created" if created else "exists, left alone",
                secret=order.name,
                namespace=cluster.namespace,
            )


if __name__ == "__main__":
    main()
