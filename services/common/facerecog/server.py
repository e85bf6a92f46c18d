"""What gRPC servers have in common: health, metrics, and a drain that loses no request."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.facerecog.channel import MAX_MESSAGE_BYTES
from services.common.facerecog.tls import server_credentials
from services.common.metrics import record

_LIVENESS: Final = "liveness"
"""The health name that is serving as long as the process answers at all."""

Context = grpc.aio.ServicerContext[Any, Any]


class GrpcServer:
    """The gRPC server: not serving until :meth:`set_serving`, and no longer after draining.

    Only its health says so, of all and of each of its ``services``; requests are answered whenever
    they can be. Clients reconnect at an age of so many seconds; ``grace`` is how many those in
    flight get at the end. Handlers are added to ``grpc``.
    """

    def __init__(self, services: Sequence[str], *, connection_age: float, grace: float) -> None:
        self.is_serving = False
        self.is_draining = False
        self._names = ("", *(f"facerecog.{service}" for service in services))
        self._grace = grace
        self._health = health.aio.HealthServicer()
        self.grpc = grpc.aio.server(
            interceptors=[_Observer()],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                # Clients look for replicas again only when they reconnect. An old connection
                # finishes what it has, however long that takes: no grace, which would cut it.
                ("grpc.max_connection_age_ms", int(connection_age * 1000)),
                # Clients ping idle connections, so that a lost host is noticed.
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                # Two processes on one port would share its requests at random.
                ("grpc.so_reuseport", 0),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)

    async def start(self, host: str, port: int, tls: Path | None = None) -> int:
        """Listen and return the port; raise ``OSError`` when it cannot be had.

        ``tls`` is the folder with certificates, without which all is in plain text.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls:
                bound = self.grpc.add_secure_port(address, server_credentials(tls))
            else:
                bound = self.grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{port}") from error
        await self._health.set(_LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._show()
        await self.grpc.start()
        return bound

    async def set_serving(self, *, serving: bool) -> None:
        """Tell everyone whether requests are served."""
        self.is_serving = serving and not self.is_draining
        await self._show()

    async def drain(self) -> None:
        """Tell everyone to go elsewhere; requests are still served."""
        self.is_draining = True
        await self.set_serving(serving=False)

    async def stop(self) -> None:
        """Take no more requests and finish those in flight."""
        await self.grpc.stop(self._grace)

    async def _show(self) -> None:
        response = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._health.set(
                name, response.SERVING if self.is_serving else response.NOT_SERVING
            )


class _Observer(grpc.aio.ServerInterceptor):
    """RED metrics by method; health probes are left out."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        package, _, operation = handler_call_details.method.partition(".")
        if handler is None or package != "/facerecog":
            return handler

        if handler.response_streaming:

            async def observed_stream(requests: Any, context: Context) -> AsyncIterator[Any]:
                with _recorded(operation, context):
                    async for response in handler.stream_stream(requests, context):
                        yield response

            return handler._replace(stream_stream=observed_stream)

        async def observed(request: Any, context: Context) -> Any:
            with _recorded(operation, context):
                return await handler.unary_unary(request, context)

        return handler._replace(unary_unary=observed)


@contextmanager
def _recorded(operation: str, context: Context) -> Iterator[None]:
    start = time.perf_counter()
    error = True
    try:
        yield
        error = False
    except (asyncio.CancelledError, GeneratorExit):
        # The client went away, which is its own affair unless its patience ended.
        left = context.time_remaining()
        error = left is not None and left <= 0
        raise
    finally:
        record(operation, time.perf_counter() - start, error=error)
