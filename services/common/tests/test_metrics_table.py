import asyncio
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.testing.pipeline import Pipeline
from services.testing.waiting import eventually

TABLE = Path(__file__).parents[3] / "docs" / "metrics.md"
ROW = re.compile(
    r"^\| `(?P<name>facestack_\w+)` \| (?P<labels>.*?) ?\| (?P<process>\w+) \|", re.MULTILINE
)
PROCESSES = ["receiver", "image_processor", "face_recog", "redeemer", "people", "frontend"]


def documented(process: str) -> dict[str, set[str]]:
    """Return the labels of each metric that the table promises of a process."""
    return {
        row["name"]: set(re.findall(r"`(\w+)`", row["labels"]))
        for row in ROW.finditer(TABLE.read_text())
        if row["process"] in {process, "all"}
    }


@pytest.fixture(scope="module")
def worked_pipeline(pipeline: Pipeline) -> Pipeline:
    """Every service has done something once, so that every label has a value."""
    with httpx.Client(base_url=pipeline.api_url, trust_env=False) as client:
        answer = client.post("/image/post", json={"path": "no such picture.jpg"})
        location = answer.raise_for_status().json()["location"]
        asyncio.run(eventually(lambda: client.get(location).json()["status"] == "rejected"))
    httpx.get(pipeline.page_url, trust_env=False).raise_for_status()
    return pipeline


@pytest.mark.parametrize("process", PROCESSES)
def test_the_table_says_exactly_what_a_process_serves(
    worked_pipeline: Pipeline, process: str
) -> None:
    url = worked_pipeline.services[process].probe_url
    text = httpx.get(f"{url}/metrics", trust_env=False).raise_for_status().text
    # The parser cuts _total off counters; the table has the names that a query uses.
    served = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(text)
        if family.name.startswith("facestack_")
    }
    promised = documented(process)
    assert served.keys() == promised.keys()
    for name, family in served.items():
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == promised[name], sample


def test_the_table_is_not_empty() -> None:
    assert {"facestack_requests_total"} < documented("receiver").keys()
