import asyncio
import json
import os
import re
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel

from services.common.object_keys import PATH_PATTERN, InvalidPathError, check_path
from services.receiver.adapters.http import documents
from services.receiver.domain.access import AccessScope
from services.receiver.domain.keys import new_secret_key
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import (
    FakeRecogniser,
    Launch,
    StoredFacesServer,
    draw,
    encode,
)
from services.testing.processes import Service

CONFIG = """
[[operations]]
include-name = "GET /events"
enabled = false  # its answer has no end

[[operations]]
include-name = "POST /people/{name}/pictures"
# Whether a file shows exactly one face is nothing that a schema can say: a well-formed picture
# without one is refused with 422, as the document says.
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-name = "GET /people/{name}"
# What cannot be seen, spaces alone for example, is nothing that the pattern of a name says.
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-name = "PUT /images/{image_id}/faces/{face_index}/person"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-name = "POST /search"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-name = "PUT /groups/{group_id}/person"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-name = "POST /images/{image_id}/faces"
# So is whether a box lies in the picture, where no face is.
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-name = "POST /images/{image_id}/regions"
# So is whether a file is XMP.
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-name = "POST /keys"
# So is whether a time is over, and whether a name can be seen.
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]
"""


HOOKS = """
import itertools
import json
import os

import schemathesis

callers = itertools.cycle(json.loads(os.environ["CALLERS"]))


@schemathesis.hook
def before_call(context, case, **kwargs):
    if caller := next(callers):
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {caller}"}
"""

KEY = "a key that lies in a file"


async def schemathesis(
    process: Service, folder: Path, *options: str, **environment: str
) -> tuple[int | None, str]:
    (folder / "schemathesis.toml").write_text(CONFIG)
    # Not waited for in this thread: the fake recogniser answers in its loop.
    tester = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "schemathesis",
        f"--config-file={folder / 'schemathesis.toml'}",
        "run",
        *options,
        "--seed=1",
        "--no-color",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, **environment},
    )
    output = (await tester.communicate())[0].decode()
    assert "Traceback" not in process.log.read_text()
    return tester.returncode, output


async def test_schemathesis_finds_nothing(
    launch: Launch, plain_settings: ReceiverSettings, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    people = StoredFacesServer(plain_settings)
    await people.start()
    closed = {"access": "keys", "administrator_key_file": key, "people_target": people.target}
    process = launch(plain_settings.model_copy(update=closed))
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=process.url, headers=headers) as client:
        # Something to find behind every address.
        picture = encode(draw(("red", (10, 10, 50, 50)), size=(60, 60)))
        await client.post("/images", files={"files": ("a.png", picture)})
        # The name is the document's example.
        address = "/people/Grace%20Hopper/pictures"
        answer = await client.post(address, files={"file": ("a.png", picture)})
        assert answer.status_code == 201
        document = tmp_path / "openapi.json"
        document.write_bytes((await client.get(f"{process.probe_url}/openapi.json")).content)
        # Nobody, somebody unknown, and one of each scope, in turn.
        callers = ["", new_secret_key().text]
        for scope in AccessScope:
            made = await client.post("/keys", json={"name": scope, "scopes": [scope]})
            callers.append(made.json()["key"])
    status, output = await schemathesis(
        process,
        tmp_path,
        str(document),
        f"--url={process.url}",
        f"--header=Authorization: Bearer {KEY}",
        "--checks=all",
        "--phases=examples,coverage,fuzzing,stateful",
        "--max-examples=30",
    )
    assert status == 0, output
    assert "60 selected / 61 total" in output
    (tmp_path / "hooks.py").write_text(HOOKS)
    status, output = await schemathesis(
        process,
        tmp_path,
        str(document),
        f"--url={process.url}",
        # What may be done is for each to say; that it is said as declared is for all of them.
        "--checks=not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_headers_conformance,response_schema_conformance",
        "--phases=fuzzing",
        f"--max-examples={len(callers)}",
        SCHEMATHESIS_HOOKS=str(tmp_path / "hooks.py"),
        CALLERS=json.dumps(callers),
    )
    await people.stop()
    assert status == 0, output
    assert "60 selected / 61 total" in output
    assert "Traceback" not in process.log.read_text()


async def test_answers_are_what_the_document_says(
    plain: httpx.AsyncClient, recogniser: FakeRecogniser
) -> None:
    picture = encode(draw(("red", (10, 10, 50, 50)), size=(60, 60)))
    uploaded = await plain.post("/images", files={"files": ("a.png", picture)})
    enrolled = await plain.post("/people/Ada/pictures", files={"file": ("a.png", picture)})
    user = {"name": "Ada", "role": "viewer", "password": "correct horse battery"}
    answers: list[tuple[type[BaseModel], httpx.Response]] = [
        (documents.AcceptedListDocument, uploaded),
        (documents.AcceptedDocument, await plain.post("/image/post", json={"path": "a"})),
        (documents.ImageDocument, await plain.get("/images/1")),
        (documents.ImagePageDocument, await plain.get("/images")),
        (documents.EnrolledDocument, enrolled),
        (documents.PeopleDocument, await plain.get("/people")),
        (documents.WholePersonDocument, await plain.patch("/people/Ada", json={"name": "Ida"})),
        (documents.WholePersonDocument, await plain.get("/people/~1")),
        (documents.StatusDocument, await plain.get("/status")),
        (documents.RegionsDocument, await plain.get("/images/1/regions")),
        (documents.EncodingDocument, await plain.post("/encoding/stop")),
        (documents.GroupPageDocument, await plain.get("/groups")),
        (documents.QuestionsDocument, await plain.get("/questions")),
        (documents.ExportDocument, await plain.get("/people/Ida/export")),
        (documents.UserDocument, await plain.post("/users", json=user)),
        (documents.UserPageDocument, await plain.get("/users")),
        (documents.SessionDocument, await plain.get("/session")),
        (
            documents.MadeKeyDocument,
            await plain.post("/keys", json={"name": "a camera", "scopes": ["read"]}),
        ),
        (documents.KeysDocument, await plain.get("/keys")),
        (documents.AuditPageDocument, await plain.get("/audit")),
        (documents.ProblemDocument, await plain.get("/images/99")),
    ]
    for model, answer in answers:
        document = answer.json()
        parsed = model.model_validate(document, strict=False)
        # Nothing is missing and nothing is there beyond the model.
        dumped = parsed.model_dump(mode="json", exclude_unset=True)
        assert dumped == document


def test_the_pattern_of_a_path_says_what_is_checked() -> None:
    for path in ("a", ".a", "..a", "...", "a/b", "a/.b", "日本.png", "a b", "a\\b", "x" * 200):
        assert check_path(path) == path
        assert re.search(PATH_PATTERN, path)
    assert re.search(PATH_PATTERN, "/a")
    for path in (
        "",
        ".",
        "..",
        "//a",
        "/",
        "a/",
        "a//b",
        "a/./b",
        "a/..",
        "http://a",
        "a\n",
        "a\x85",
    ):
        with pytest.raises(InvalidPathError):
            check_path(path)
        assert not re.fullmatch(PATH_PATTERN, path)


async def test_the_page_for_people_is_complete_and_loads_nothing(plain: httpx.AsyncClient) -> None:
    page = await plain.get("/docs")
    document = (await plain.get("/openapi.json")).json()
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert not re.search(r'(src|href)="(?!/openapi\.json|#)', page.text)
    operations = [
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    ]
    assert len(operations) == 61
    for method, path in operations:
        assert f"<h2><b>{method}</b>{path}</h2>" in page.text
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page.text
    assert "HTTPValidationError" not in page.text
