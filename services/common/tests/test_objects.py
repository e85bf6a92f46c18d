import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from services.common.errors import (
    ObjectNotFoundError,
    ObjectRefusedError,
    ObjectStoreUnavailableError,
    ObjectTooLargeError,
)
from services.common.http_server import serve_http
from services.common.lifecycle import Lifecycle
from services.common.object_keys import MAX_PART_BYTES, InvalidPathError, check_path
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.common.sockets import listen
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
        with pytest.raises((ObjectNotFoundError, ObjectRefusedError)):
            await any_store.get(key)
        with pytest.raises(ObjectRefusedError):
            await any_store.put(key, b"x")
        await any_store.delete(key)
        assert not await any_store.exists(key)
    assert await asyncio.to_thread((tmp_path / "outside").read_bytes) == b"secret"


# Half of the paths are near the limits, where parts are long and characters have many bytes.
_PARTS = st.one_of(
    st.text(max_size=20),
    st.text(st.sampled_from("a.#1\\%é日😀 "), max_size=70),
    st.builds(lambda one, times: one * times, st.sampled_from("xé日😀"), st.integers(48, 201)),
)
_PATHS = st.lists(_PARTS, min_size=1, max_size=8).map("/".join)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=_PATHS)
@example(path="x" * 115 + ("/" + "日" * 66 + "x") * 4 + "/" + "日" * 33)
@example(path="\ufffe")
@example(path="é#1/~")
def test_a_path_that_is_accepted_is_a_key_everywhere(
    versitygw: VersityGw, tmp_path: Path, path: str
) -> None:
    try:
        key = "pictures/" + check_path(path)
    except InvalidPathError as error:
        assert str(error).startswith("path ")  # noqa: PT017
        return
    # An empty folder that an earlier example left would be in the way of a file.
    folder = ObjectStoreSettings(object_store_url=f"file://{tempfile.mkdtemp(dir=tmp_path)}")

    async def use(store: ObjectStore) -> None:
        await store.put(key, b"content")
        assert await store.get(key) == b"content"
        assert [info.size async for info in store.list("pictures/") if info.key == key] == [7]
        await store.delete(key)
        assert not await store.exists(key)

    for one in (folder, s3_settings(versitygw, tmp_path)):
        asyncio.run(use(ObjectStore(one)))


@pytest.mark.parametrize("key", ["x" * 300, "a//b", "a/./b", "/".join(["x" * 200] * 60)])
async def test_a_key_that_no_object_can_have_is_refused(any_store: ObjectStore, key: str) -> None:
    with pytest.raises(ObjectRefusedError):
        await any_store.put(key, b"x")
    # A folder says that there is no such file, which is as final.
    with pytest.raises((ObjectRefusedError, ObjectNotFoundError)):
        await any_store.get(key)
    await any_store.delete(key)


async def test_a_key_that_is_in_the_way_of_another_is_refused(any_store: ObjectStore) -> None:
    await any_store.put("way/file", b"x")
    for key in ("way/file/below", "way"):
        with pytest.raises(ObjectRefusedError):
            await any_store.put(key, b"x")
    assert await any_store.get("way/file") == b"x"


async def test_a_store_that_is_missing_does_not_say_that_its_objects_are(
    versitygw: VersityGw, tmp_path: Path
) -> None:
    folder = ObjectStore(ObjectStoreSettings(object_store_url=f"file://{tmp_path / 'store'}"))
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    there = s3_settings(versitygw, tmp_path)
    bucket = ObjectStore(there.model_copy(update={"object_store_url": "s3://another-bucket"}))
    (tmp_path / "wrong").write_text("another key")
    nobody = ObjectStore(there.model_copy(update={"s3_secret_access_key_file": tmp_path / "wrong"}))
    for store in (folder, bucket, nobody):
        with pytest.raises(ObjectStoreUnavailableError):
            await store.get("pictures/a.jpg")
        with pytest.raises(ObjectStoreUnavailableError):
            await store.check()
    for store in (bucket, nobody):
        with pytest.raises(ObjectStoreUnavailableError):
            await store.put("pictures/a.jpg", b"x")


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
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/v1/credentials")
    lifecycle = Lifecycle({}, drain_seconds=0)
    serving = asyncio.create_task(serve_http(app, listener, lifecycle))
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


@pytest.fixture
def folder(folder_store_settings: ObjectStoreSettings, tmp_path: Path) -> Path:
    """The folder of a store, with one picture."""
    pictures = tmp_path / "store" / "pictures"
    pictures.mkdir(parents=True)
    (pictures / "good.jpg").write_bytes(b"good")
    return pictures


def lies_outside(path: Path) -> None:
    outside = path.parent.parent.parent / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    if path.name == "linked":
        path.symlink_to(outside)
    else:
        path.symlink_to(outside / "secret.jpg")


@pytest.mark.parametrize(
    ("name", "key", "make"),
    [
        ("link.jpg", "link.jpg", lies_outside),
        ("linked", "linked/secret.jpg", lies_outside),
        ("circle.jpg", "circle.jpg", lambda path: path.symlink_to(path)),
        ("gone.jpg", "gone.jpg", lambda path: path.symlink_to("nowhere")),
        ("pipe.jpg", "pipe.jpg", os.mkfifo),
        ("folder.jpg", "folder.jpg", Path.mkdir),
    ],
)
async def test_what_is_no_file_of_the_folder_is_no_object(
    folder_store_settings: ObjectStoreSettings,
    folder: Path,
    name: str,
    key: str,
    make: Callable[[Path], None],
) -> None:
    make(folder / name)
    store = ObjectStore(folder_store_settings)
    with pytest.raises(ObjectNotFoundError):
        await store.get(f"pictures/{key}")
    assert not await store.exists(f"pictures/{key}")
    assert [info.key async for info in store.list("pictures/")] == ["pictures/good.jpg"]


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", b"a\nb.jpg", b"a.jpg#1"])
async def test_a_name_that_is_no_key_hides_no_other(
    folder_store_settings: ObjectStoreSettings, folder: Path, name: bytes
) -> None:
    os.close(os.open(bytes(folder) + b"/" + name, os.O_CREAT))
    store = ObjectStore(folder_store_settings)
    assert [info.key async for info in store.list("pictures/")] == ["pictures/good.jpg"]


@pytest.fixture
def album(folder: Path) -> Path:
    """The folder, elsewhere, with a link in its old place and another one inside."""
    moved = folder.rename(folder.parent.parent / "album")
    folder.symlink_to(moved)
    (moved / "again.jpg").symlink_to("good.jpg")
    return moved


@pytest.mark.usefixtures("album")
async def test_the_top_folder_may_be_a_link_and_links_inside_lead_on(
    folder_store_settings: ObjectStoreSettings,
) -> None:
    store = ObjectStore(folder_store_settings)
    assert await store.get("pictures/again.jpg") == b"good"
    listed = {info.key async for info in store.list("pictures/")}
    assert listed == {"pictures/good.jpg", "pictures/again.jpg"}


async def test_a_file_has_the_same_tag_in_a_listing_and_alone(
    folder_store_settings: ObjectStoreSettings, folder: Path
) -> None:
    [listed] = [info async for info in ObjectStore(folder_store_settings).list("pictures/")]
    alone = await obstore.head_async(LocalStore(folder.parent), listed.key)
    assert (listed.tag, listed.size) == (alone["e_tag"], alone["size"])
