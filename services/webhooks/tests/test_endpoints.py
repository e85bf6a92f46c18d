import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.common.webhooks import WebhookType
from services.webhooks.adapters.endpoints import EndpointsFile, read_endpoints
from services.webhooks.domain import Endpoint, EndpointsError
from services.webhooks.tests.conftest import KEY, SECRET


def entry(**more: Any) -> Mapping[str, Any]:
    return {"url": "https://example.org/hook", "secret": SECRET, **more}


def test_an_operator_says_who_is_told(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.json"
    assert read_endpoints(file) == ()
    more = entry(url="http://n8n.tools:5678/hook", allow_http=True, events=["image.dead"])
    file.write_text(json.dumps([entry(), more]))
    assert read_endpoints(file) == (
        Endpoint("https://example.org/hook", KEY, frozenset(WebhookType)),
        Endpoint("http://n8n.tools:5678/hook", KEY, frozenset({WebhookType.IMAGE_DEAD})),
    )
    assert "ABC" not in repr(read_endpoints(file))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("nonsense", "Invalid JSON"),
        ("{}", "valid array"),
        ([{"url": "https://a.b/"}], "0.secret: Field required"),
        ([entry(url="http://a.b/")], "url must begin with https"),
        ([entry(url="https://user@a.b/")], "may have no user"),
        ([entry(url="https:///x")], "needs a host"),
        ([entry(url="ftp://a.b")], "0.url: "),
        ([entry(url="https://a.b/ x")], "0.url: "),
        ([entry(secret="whsec_c2hvcnQ=")], "secret must be whsec_ and 24 to 64 random bytes"),
        ([entry(secret="QUJD" * 8)], "secret must be whsec_"),
        ([entry(secret="whsec_" + "%" * 40)], "secret must be whsec_"),
        ([entry(events=["image.seen"])], "0.events"),
        ([entry(events=[])], "0.events"),
        ([entry(retries=3)], "0.retries: Extra inputs"),
        ([entry(), entry()], "it names https://example.org/hook twice"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_without_a_secret(
    content: Any, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "webhooks.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(EndpointsError) as caught:
        read_endpoints(file)
    assert reason in str(caught.value)
    assert "QUJD" not in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)


async def test_the_file_may_change_and_is_kept_while_it_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.json"
    endpoints = EndpointsFile(file)
    assert endpoints() == ()
    file.write_text(json.dumps([entry()]))
    await endpoints.look()
    assert len(endpoints()) == 1
    file.write_text("[{")
    await endpoints.look()
    assert len(endpoints()) == 1
    file.write_text("[]")
    await endpoints.look()
    assert endpoints() == ()
