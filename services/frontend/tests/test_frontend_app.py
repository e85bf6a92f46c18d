import asyncio
from http import HTTPStatus

from services.frontend.app import connect
from services.testing.servers import free_port


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
