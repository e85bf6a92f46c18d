"""A channel to all replicas of a service."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc

from services.common.facerecog.tls import channel_credentials, version
from services.common.picture_formats import MAX_PICTURE_BYTES

MAX_MESSAGE_BYTES: Final = MAX_PICTURE_BYTES + 1024 * 1024
"""Room for a picture and the rest of its request."""

_KEEPALIVE_MS: Final = 20_000
_PING_TIMEOUT_MS: Final = 5_000
_FINISH_SECONDS: Final = 300.0
"""For what was asked before a renewal; no call lasts longer."""


class Channel:
    """Replicas at a target as gRPC names it, in plain text or over TLS.

    A channel of gRPC's keeps its certificate for ever, so a renewed one gets another channel.
    """

    def __init__(self, target: str, tls: Path | None) -> None:
        self._target = target
        self._tls = tls
        self._version = version(tls) if tls else None
        self._channel = _open(target, tls)
        self._closing: set[asyncio.Task[None]] = set()

    def now(self) -> grpc.aio.Channel:
        """Return the channel for one call, which goes on over it when another one is opened."""
        with suppress(FileNotFoundError):  # the one before will do, as long as it is valid
            if self._tls and (found := version(self._tls)) != self._version:
                before, self._channel = self._channel, _open(self._target, self._tls)
                self._version = found
                task = asyncio.ensure_future(before.close(_FINISH_SECONDS))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        return self._channel

    async def close(self) -> None:
        """Close it, with the calls that it has."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close()


def _open(target: str, tls: Path | None) -> grpc.aio.Channel:
    options = [
        ("grpc.lb_policy_name", "round_robin"),
        # Otherwise channels of one process share connections, and how long one that was
        # refused waits until it tries again.
        ("grpc.use_local_subchannel_pool", 1),
        # A replica that drains says so and gets no more requests, also not the one that
        # asks how it is: while another one serves, the service is not away.
        ("grpc.service_config", '{"healthCheckConfig": {"serviceName": ""}}'),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A replica that comes back is found again within seconds, not minutes.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 3000),
        ("grpc.dns_min_time_between_resolutions_ms", 3000),
        # Deadlines are far away: a connection that died without a word is noticed by
        # pings, and not only by the first two. (gRPC 1.85 heeds no keepalive_timeout_ms.)
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, channel_credentials(tls), options)
