import asyncio
from functools import partial
from http import HTTPStatus

from services.common.lifecycle import Lifecycle
from services.frontend.app import connect, make_contact
from services.local.processes import free_port


async def test_a_connection_that_was_not_made_is_tried_again() -> None:
    port = free_port()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with connect(f"http://127.0.0.1:{port}") as client, asyncio.TaskGroup() as group:
        asked = group.create_task(client.get("/status"))
        # Before the second pause between attempts, which is 0.5 s, and after the first attempt.
        await asyncio.sleep(0.1)
        server = await asyncio.start_server(answer, "127.0.0.1", port)
        async with server:
            assert (await asked).status_code == HTTPStatus.NO_CONTENT


async def test_a_process_is_ready_once_every_connection_to_the_receiver_is_made() -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        # One replica of two that the network does not let it reach yet.
        if asked <= refused and asked % 2:
            writer.transport.abort()
            return
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    port = free_port()
    refused = 8
    contact = partial(make_contact, f"http://127.0.0.1:{port}")
    lifecycle = Lifecycle({"receiver": contact}, drain_seconds=0)
    ready, problems = await lifecycle.readiness()
    assert not ready
    assert "connection attempts failed" in problems["receiver"]
    async with await asyncio.start_server(answer, "127.0.0.1", port):
        assert not (await lifecycle.readiness())[0]
        assert asked == refused
        assert await lifecycle.readiness() == (True, {})
    # Whatever happens to the receiver afterwards, pages tell.
    assert (await lifecycle.readiness())[0]
