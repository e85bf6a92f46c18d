import asyncio
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from services.common import ops
from services.common.images import MAX_PART_BYTES
from services.common.objects import (
    ObjectNotFoundError,
    ObjectStore,
    ObjectStoreUnavailableError,
    ObjectTooLargeError,
)
from services.common.settings import ObjectStoreSettings
from services.testing.fixtures import s3_settings
from services.testing.servers import VersityGw

ODD_KEYS = [
    "pictures/a b.jpg",
    "pictures/ü/é.jpg",
    "pictures/日本.png",
    "pictures/100%.jpg",
    "pictures/%41%2F.jpg",
    "pictures/a?b#c&d=+;:@,'\"<>|*~`^{}[]$!().jpg",
    "pictures/back\\slash.jpg",
    "pictures/ leading and trailing ",
    "pictures/.hidden",
    "pictures/...",
    "pictures/" + "x" * MAX_PART_BYTES,
    "pictures/<img src=x onerror=1>.jpg",
]


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_any_key_is_put_got_listed_and_deleted(any_store: ObjectStore, key: str) -> None:
    await any_store.put(key, b"one")
    await any_store.put(key, b"three")
    assert await any_store.get(key) == b"three"
    assert await any_store.exists(key)
    listed = {info.key: info.size async for info in any_store.list("pictures/")}
    assert listed[key] == 5
    await any_store.delete(key)
    assert not await any_store.exists(key)
    assert key not in {info.key async for info in any_store.list("pictures/")}


async def test_an_object_over_the_callers_limit_is_not_read(any_store: ObjectStore) -> None:
    await any_store.put("pictures/large", b"12345")
    assert await any_store.get("pictures/large", max_bytes=5) == b"12345"
    with pytest.raises(ObjectTooLargeError, match="has 5 bytes, the limit is 4"):
        await any_store.get("pictures/large", max_bytes=4)


async def test_a_missing_key(any_store: ObjectStore) -> None:
    for key in ("missing", "pictures/missing.jpg", "pictures"):
        with pytest.raises(ObjectNotFoundError):
            await any_store.get(key)
        assert not await any_store.exists(key)
    await any_store.delete("missing")


async def test_a_key_below_a_file_is_missing(any_store: ObjectStore) -> None:
    await any_store.put("pictures/file", b"x")
    with pytest.raises(ObjectNotFoundError):
        await any_store.get("pictures/file/below")


async def test_a_folder_is_no_object(any_store: ObjectStore) -> None:
    await any_store.put("pictures/folder/file", b"x")
    await any_store.delete("pictures/folder")
    assert await any_store.get("pictures/folder/file") == b"x"


async def test_a_replaced_object_has_another_tag(any_store: ObjectStore) -> None:
    await any_store.put("tags/one", b"first")
    [before] = [info async for info in any_store.list("tags/")]
    await any_store.put("tags/one", b"other")
    [after] = [info async for info in any_store.list("tags/")]
    assert before.tag != after.tag


async def test_keys_never_leave_the_store(any_store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    for key in ("../outside", "pictures/../../outside", "pictures/nul\0"):
        with pytest.raises(ObjectStoreUnavailableError):
            await any_store.get(key)


async def test_parallel_readers_and_writers(any_store: ObjectStore) -> None:
    contents = {f"many/{number}": bytes([number]) * 1000 for number in range(100)}
    await asyncio.gather(*(any_store.put(key, content) for key, content in contents.items()))
    found = await asyncio.gather(*(any_store.get(key) for key in contents))
    assert found == list(contents.values())
    assert {info.key async for info in any_store.list("many/")} == set(contents)


async def test_the_server_gone_and_back(tmp_path: Path) -> None:
    server = VersityGw(tmp_path).start()
    store = ObjectStore(s3_settings(server, tmp_path))
    await store.put("pictures/kept", b"kept")
    server.kill()
    with pytest.raises(ObjectStoreUnavailableError, match="pictures/kept"):
        await store.get("pictures/kept")
    with pytest.raises(ObjectStoreUnavailableError):
        await store.put("pictures/new", b"new")
    with pytest.raises(ObjectStoreUnavailableError):
        await store.check()
    with pytest.raises(ObjectStoreUnavailableError):
        [info async for info in store.list("pictures/")]
    server.start()
    await store.check()
    assert await store.get("pictures/kept") == b"kept"
    server.stop()


async def test_without_keys_the_pods_own_identity_on_aws_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def give(request: Request) -> Response:
        asked.append(request.headers["authorization"])
        return JSONResponse(
            {
                "AccessKeyId": "role-key",
                "SecretAccessKey": "role-secret",
                "Token": "role-session",
                "Expiration": "2999-01-01T00:00:00Z",
            }
        )

    async def answer(request: Request) -> Response:
        assert request.headers["x-amz-security-token"] == "role-session"
        assert "Credential=role-key/" in request.headers["authorization"]
        assert "/eu-central-1/s3/" in request.headers["authorization"]
        return PlainTextResponse("the picture")

    # What the EKS Pod Identity webhook puts into a pod.
    (tmp_path / "token").write_text("token of the ServiceAccount")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    app = Starlette(routes=[Route("/v1/credentials", give), Route("/bucket/{key:path}", answer)])
    listener = ops.listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/v1/credentials")
    lifecycle = ops.Lifecycle({}, drain_seconds=0)
    serving = asyncio.create_task(ops.serve_http(app, listener, lifecycle))
    settings = ObjectStoreSettings(
        object_store_url="s3://bucket", s3_region="eu-central-1", s3_endpoint=url
    )
    assert await ObjectStore(settings).get("pictures/a.jpg") == b"the picture"
    # AWS is asked through TLS only, but the identity of the pod comes without.
    encrypted = ObjectStore(settings.model_copy(update={"s3_endpoint": "https://127.0.0.1:1"}))
    with pytest.raises(ObjectStoreUnavailableError):
        await encrypted.get("pictures/a.jpg")
    assert asked == ["token of the ServiceAccount"] * 2
    lifecycle.drain()
    await serving
