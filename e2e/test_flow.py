"""Pictures through the whole pipeline on the cluster, whatever is done to its pods."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from e2e.client import (
    SAMPLES,
    USER,
    Client,
    assert_recognised,
    logged_in,
    metrics,
    metrics_pages,
    object_store,
    people,
    pods,
    request,
)
from e2e.cluster import ROOT, Cluster, is_ready
from e2e.waiting import wait_until
from services.common.changes import CHANGES
from services.common.settings import CHANNEL, TOPIC
from services.frontend.tests.browser import Site, card, chromium, drop
from services.local.demo import Demo, Row
from services.local.samples import EILEEN, GRACE, load_photos
from services.local.samples import SAMPLES as DEMO_SAMPLES
from services.receiver.domain.submissions import MAX_FILES

OVERLAY = ROOT / "overlays" / "kind"
PROCESSED = 'facestack_attempts_total{outcome="processed"}'
BATCH = 2 * MAX_FILES
WORKLOADS = (
    "nsqd",
    "nsqlookupd",
    "mariadb",
    "object-store",
    "face-recog",
    "image-processor",
    "redeemer",
    "people",
    "webhooks",
    "receiver",
    "frontend",
)
# Without these a submission is refused, and the client repeats it.
ANSWERS = {"mariadb", "object-store", "receiver"}

expect.set_options(timeout=30_000)


@dataclass(frozen=True)
class Queue:
    """What nsqd has counted: messages, those that reached the processors' channel and wait in it.

    ``finished`` says how many each processor has answered.
    """

    messages: int
    delivered: int
    waiting: int
    finished: dict[str, int]


def queue(cluster: Cluster) -> Queue:
    with cluster.forward("svc/nsqd", 4151) as port:
        stats = request(
            "GET",
            f"http://127.0.0.1:{port}/stats",
            params={"format": "json", "topic": TOPIC, "channel": CHANNEL},
        ).json()
    for topic in stats["topics"] or ():
        (channel,) = topic["channels"]
        return Queue(
            topic["message_count"],
            channel["message_count"],
            channel["depth"],
            {client["hostname"]: client["finish_count"] for client in channel["clients"]},
        )
    return Queue(0, 0, 0, {})


@dataclass(frozen=True)
class DemoRun:
    """The rows of the demo, and nsqd's counters before and after it."""

    rows: list[Row]
    before: Queue
    after: Queue

    @property
    def images(self) -> dict[int, dict[str, Any]]:
        """Each image once: some samples are duplicates on purpose."""
        return {row.image["id"]: row.image for row in self.rows}


@pytest.fixture(scope="module")
def client(pipeline: Cluster) -> Client:
    return Client(pipeline)


@pytest.fixture(scope="module")
def demo(pipeline: Cluster, client: Client) -> DemoRun:
    """Submit all that `make demo` submits."""
    client.clear()
    before = queue(pipeline)
    with metrics_pages(pipeline, "face-recog") as recognisers:
        run = Demo(
            pipeline.api_url,
            pipeline.administrator_key(),
            list(recognisers.values()),
            partial(put, pipeline),
            load_photos(SAMPLES),
            SAMPLES,
        )
        rows = asyncio.run(run.run(lambda _: None, lambda _: None))
    return DemoRun(rows, before, queue(pipeline))


@pytest.fixture
def known(client: Client) -> Client:
    """A client of a pipeline that knows both people."""
    client.enrol()
    return client


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def put(cluster: Cluster, path: str, content: bytes) -> None:
    """Put a picture where a path leads to."""
    with object_store(cluster) as store:
        store.put(f"pictures/{path}", content)


@contextmanager
def first_page(cluster: Cluster, browser: Browser, evidence: Path) -> Iterator[Page]:
    """Open the page, which must complain of nothing, and keep a picture of how it was left."""
    logged_in(cluster)  # there is such a user then
    site = Site(cluster, browser)  # type: ignore[arg-type]  # it needs the addresses only
    with site.open("/log-in") as page:
        page.get_by_label("Name").fill(USER["name"])
        page.get_by_label("Password").fill(USER["password"])
        page.get_by_role("button", name="Log in").click()
        try:
            yield page
        finally:
            page.screenshot(path=evidence / "page.png", full_page=True, animations="disabled")
    assert site.complaints == []


def test_naming_one_face_names_it_on_earlier_pictures(client: Client) -> None:
    client.clear()
    named, other = client.upload(client.picture(GRACE), client.picture(GRACE))
    before = client.wait_final([named, other])
    assert [people(image) for image in before] == [["somebody unknown"]] * 2
    client.call("PUT", f"/images/{named}/faces/0/person", json={"name": GRACE})
    wait_until(lambda: people(client.image(other)) == [GRACE], 30, "the other picture's name")
    client.call("DELETE", f"/images/{named}/faces/0/person")
    wait_until(
        lambda: (
            [people(client.image(image_id)) for image_id in (named, other)]
            == [["somebody unknown"]] * 2
        ),
        30,
        "both pictures without it",
    )


def test_a_group_of_unknown_faces_is_named_looked_for_and_forgotten(
    pipeline: Cluster, client: Client
) -> None:
    client.clear()
    ids = client.upload(client.picture(GRACE), client.picture(GRACE))
    client.wait_final(ids)
    wanted = {(image_id, 0) for image_id in ids}

    def grouped() -> int:
        for group in client.call("GET", "/groups")["groups"]:
            if faces_of(group["faces"]) == wanted:
                return int(group["id"])
        raise AssertionError("the two faces are in no group of their own")

    group = wait_until(grouped, 60, "a group of the two faces")
    client.call("PUT", f"/groups/{group}/person", json={"name": GRACE})
    assert [people(client.image(image_id)) for image_id in ids] == [[GRACE]] * 2

    def looked_for() -> set[tuple[int, int]]:
        asked = {"image_id": ids[0], "face_index": 0}
        return faces_of(client.call("POST", "/search", json=asked)["found"])

    wait_until(lambda: looked_for() >= {(ids[1], 0)}, 30, "the other face to be found")

    (person,) = client.call("GET", "/people")["people"]
    client.call("POST", f"/people/~{person['id']}/erase", json={"pictures": False})
    wait_until(lambda: not kept_of(pipeline, ids), 60, "every trace of the faces to go")
    assert client.call("GET", "/people")["people"] == []
    assert [people(client.image(image_id)) for image_id in ids] == [[], []]


def faces_of(entries: Iterable[Mapping[str, Any]]) -> set[tuple[int, int]]:
    return {(entry["image_id"], entry["face_index"]) for entry in entries}


def kept_of(pipeline: Cluster, ids: Sequence[int]) -> list[tuple[object, ...]]:
    """Return what tables hold of the faces of some images."""
    some = f"image_id IN ({', '.join(map(str, ids))})"
    return [
        row
        for table in ("face_encodings", "group_faces", "face_denials")
        for row in pipeline.sql(f"SELECT image_id FROM {table} WHERE {some}")
    ]


def test_every_row_of_the_demo_is_right(demo: DemoRun) -> None:
    assert [row.sample for row in demo.rows] == list(DEMO_SAMPLES)
    assert {row.sample.name: faults for row in demo.rows if (faults := row.faults(demo.rows))} == {}


def test_the_demo_went_through_nsq_and_mariadb(pipeline: Cluster, demo: DemoRun) -> None:
    images = demo.images
    processors = {pod["metadata"]["name"] for pod in pods(pipeline, "image-processor")}
    assert set(demo.after.finished) == processors
    assert demo.after.messages - demo.before.messages >= len(images)
    assert demo.after.delivered - demo.before.delivered >= len(images)
    finished = sum(demo.after.finished.values()) - sum(demo.before.finished.values())
    assert finished >= len(images)

    rows = pipeline.sql("SELECT id, path, status FROM images ORDER BY id")
    assert rows == [
        (str(image["id"]), image["path"], image["status"]) for _, image in sorted(images.items())
    ]
    named = pipeline.sql("SELECT image_id, person FROM faces")
    assert sorted(named) == sorted(
        (str(image["id"]), face["person"]) for image in images.values() for face in image["faces"]
    )


def test_the_page_shows_every_name(
    pipeline: Cluster, demo: DemoRun, browser: Browser, evidence: Path
) -> None:
    with first_page(pipeline, browser, evidence) as page:
        for image in demo.images.values():
            shown = card(page, image["name"])
            expect(shown.locator(".badge")).to_have_text(image["status"].capitalize())
            names = shown.locator(".names .name")
            expect(names).to_have_count(len(image["faces"]))
            assert sorted(names.all_inner_texts()) == sorted(people(image))


def test_a_picture_dropped_on_the_page_gets_its_name(
    pipeline: Cluster, known: Client, browser: Browser, evidence: Path
) -> None:
    with first_page(pipeline, browser, evidence) as page:
        drop(page, ("dropped.jpg", known.picture(GRACE)))
        expect(card(page, "dropped.jpg").locator(".names")).to_have_text(GRACE)


def test_what_is_submitted_while_pods_are_deleted_is_processed(
    pipeline: Cluster, known: Client
) -> None:
    submitted: dict[str, list[int]] = {}
    for workload in WORKLOADS:
        old = pods(pipeline, workload)
        with known.uploading(EILEEN) as ids:
            wait_for_two_more(ids)
            before = len(ids)
            delete_pods(pipeline, f"--selector=app.kubernetes.io/name={workload}")
            wait_replaced(pipeline, workload, old)
            away = len(ids) - before
            wait_for_two_more(ids)
        print(f"{workload}: {len(ids)} acknowledged, {away} of them while its pods were away")
        # A doorbell or a worker that is away keeps nobody from submitting.
        assert away or workload in ANSWERS
        submitted[workload] = ids
    for workload, ids in submitted.items():
        print(f"{workload}: waiting for {len(ids)}")
        assert_recognised(known.wait_final(ids), EILEEN)


def wait_for_two_more(ids: list[int]) -> None:
    enough = len(ids) + 2
    wait_until(lambda: len(ids) >= enough, 60, "two more submissions")


def delete_pods(cluster: Cluster, *which: str) -> None:
    """Kill pods: --now gives them a second, in which none of them drains."""
    cluster.kubectl("delete", "pods", *which, "--now", "--wait=false")


def wait_replaced(cluster: Cluster, workload: str, old: list[dict[str, Any]]) -> None:
    gone = {pod["metadata"]["uid"] for pod in old}

    def replaced() -> bool:
        new = pods(cluster, workload)
        return (
            len(new) == len(old)
            and all(map(is_ready, new))
            and not gone & {pod["metadata"]["uid"] for pod in new}
        )

    wait_until(replaced, 180, f"new pods of {workload}")


def test_data_outlives_every_pod(pipeline: Cluster, known: Client, demo: DemoRun) -> None:
    known.wait_final(known.upload(known.picture(GRACE)))
    before = everything(pipeline)
    assert before["faces"]
    old = {pod["metadata"]["uid"] for pod in pipeline.get("pods")["items"]}
    delete_pods(pipeline, "--all")

    def replaced() -> bool:
        return not old & {pod["metadata"]["uid"] for pod in pipeline.get("pods")["items"]}

    wait_until(replaced, 180, "every pod to be gone")
    pipeline.wait_ready()
    assert everything(pipeline) == before
    for image in demo.images.values():
        if image["status"] == "processed":
            assert known.image(image["id"]) == image
    assert_recognised(known.wait_final(known.upload(known.picture(EILEEN))), EILEEN)


def everything(cluster: Cluster) -> dict[str, Any]:
    """Return all rows of the tables and all lasting objects, with their sizes and hashes."""
    tables = ("images", "faces", "persons", "person_images", "alembic_version")
    rows: dict[str, Any] = {
        table: sorted(cluster.sql(f"SELECT * FROM {table}"), key=str) for table in tables
    }
    encodings = "SELECT image_id, face_index, engine, SHA2(encoding, 256) FROM face_encodings"
    rows["face_encodings"] = sorted(cluster.sql(encodings))
    with object_store(cluster) as store:
        rows["objects"] = sorted(
            (meta["path"], meta["size"], meta["e_tag"])
            for chunk in store.list()
            for meta in chunk
            if not meta["path"].startswith(CHANGES)  # face_recog removes them when it has looked
        )
    return rows


def test_more_replicas_share_the_work(pipeline: Cluster, known: Client) -> None:
    rates = {}
    with replicas_restored(pipeline, "image-processor", "face-recog"):
        for processors, recognisers in ((1, 1), (4, 2)):
            scale(pipeline, "face-recog", recognisers)
            # New processors know every recogniser at once, old ones when they reconnect.
            delete_pods(pipeline, "--selector=app.kubernetes.io/name=image-processor")
            scale(pipeline, "image-processor", processors)
            work = metrics(pipeline, "image-processor", PROCESSED)
            faces = metrics(pipeline, "face-recog", "facestack_faces_total")
            rates[processors, recognisers] = rate(known)
            work_after = metrics(pipeline, "image-processor", PROCESSED)
            faces_after = metrics(pipeline, "face-recog", "facestack_faces_total")
            done = {pod: work_after[pod] - work[pod] for pod in work}
            found = {pod: faces_after[pod] - faces[pod] for pod in faces}
            assert len(done) == processors
            assert len(found) == recognisers
            assert min(done.values()) > 0
            assert min(found.values()) > 0
            assert sum(done.values()) == BATCH
    for (processors, recognisers), value in rates.items():
        print(
            f"{processors} processors, {recognisers} recognisers: {value:.1f} pictures/s,"
            f" {value / rates[1, 1]:.2f} times the first"
        )


def rate(client: Client) -> float:
    """Submit a batch and return how many pictures per second were processed."""
    ids = [
        image_id
        for _ in range(BATCH // MAX_FILES)
        for image_id in client.upload(*(client.picture(EILEEN) for _ in range(MAX_FILES)))
    ]
    images = client.wait_final(ids)
    assert_recognised(images, EILEEN)
    begin = min(datetime.fromisoformat(image["created_at"]) for image in images)
    end = max(datetime.fromisoformat(image["processed_at"]) for image in images)
    return len(images) / (end - begin).total_seconds()


def scale(cluster: Cluster, workload: str, replicas: int) -> None:
    cluster.kubectl("scale", f"deployment/{workload}", f"--replicas={replicas}")

    def scaled() -> bool:
        # Those on their way out count as well: they still work.
        found = cluster.get("pods", f"--selector=app.kubernetes.io/name={workload}")["items"]
        return len(found) == replicas and all(map(is_ready, found))

    wait_until(scaled, 180, f"{replicas} pods of {workload}")


@contextmanager
def replicas_restored(cluster: Cluster, *workloads: str) -> Iterator[None]:
    before = {name: cluster.get(f"deployment/{name}")["spec"]["replicas"] for name in workloads}
    try:
        yield
    finally:
        for workload, replicas in before.items():
            scale(cluster, workload, replicas)


def test_rows_of_which_no_message_was_sent_are_healed(pipeline: Cluster, known: Client) -> None:
    paths = {
        state: f"unnotified/{uuid4().hex}.jpg" for state in ("pending", "processing", "failed")
    }
    now = int(time.time() * 1000)
    values = ", ".join(
        f"('{path}', '{state}.jpg', '{state}', 1, '{'t' * 32}', {now - 1}, {now}, {now})"
        for state, path in paths.items()
    )
    before = redeemed(pipeline)
    for path in paths.values():
        put(pipeline, path, known.picture(GRACE))
    pipeline.sql(
        "INSERT INTO images"
        " (path, name, status, attempt, claim_token, due_at, created_at, updated_at)"
        f" VALUES {values}"
    )
    found = pipeline.sql("SELECT id FROM images WHERE path LIKE 'unnotified/%'")
    assert_recognised(known.wait_final([int(str(row[0])) for row in found]), GRACE)
    after = redeemed(pipeline)
    for reason in ("pending", "lease", "failed"):
        assert after[reason] > before[reason]


def test_rows_whose_messages_were_lost_are_healed(pipeline: Cluster, known: Client) -> None:
    before = redeemed(pipeline)["pending"]
    with nsqd(pipeline) as do:
        do("pause")
        try:
            ids = known.upload(known.picture(EILEEN), known.picture(EILEEN))
            wait_until(
                lambda: queue(pipeline).waiting >= len(ids), 20, "the messages to be in the queue"
            )
            do("empty")
        finally:
            do("unpause")
    assert_recognised(known.wait_final(ids), EILEEN)
    assert redeemed(pipeline)["pending"] >= before + len(ids)


@contextmanager
def nsqd(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Give a way to do something to the processors' channel."""
    with cluster.forward("svc/nsqd", 4151) as port:

        def do(what: str) -> None:
            request(
                "POST",
                f"http://127.0.0.1:{port}/channel/{what}",
                params={"topic": TOPIC, "channel": CHANNEL},
            ).raise_for_status()

        yield do


def redeemed(cluster: Cluster) -> dict[str, float]:
    """Return the repairs of all redeemers by their reason."""
    return {
        reason: sum(
            metrics(cluster, "redeemer", f'facestack_redeemed_total{{reason="{reason}"}}').values()
        )
        for reason in ("pending", "lease", "failed")
    }


@pytest.mark.long
def test_everything_applied_at_once_in_random_order_comes_up(
    pipeline: Cluster, client: Client, order: int
) -> None:
    rendered = pipeline.kubectl("kustomize", str(OVERLAY)).stdout
    documents = list(yaml.safe_load_all(rendered))
    seed = random.randrange(1_000_000)
    print(f"order {order}: seed {seed}")
    random.Random(seed).shuffle(documents)
    # The API takes nothing for a namespace that is not there.
    documents.sort(key=lambda document: document["kind"] != "Namespace")

    delete = ("delete", "--filename=-", "--ignore-not-found")
    pipeline.kubectl(*delete, "--wait=false", input=rendered)
    delete_pods(pipeline, "--all")  # nobody waits for what they would still do
    pipeline.kubectl(*delete, input=rendered)
    applied = pipeline.kubectl(
        "apply", "--filename=-", "--output=name", input=yaml.safe_dump_all(documents)
    )
    names = applied.stdout.split()
    print("\n".join(names))
    assert len(names) == len(documents)
    pipeline.wait_ready(names)
    client.enrol()
    assert_recognised(client.wait_final(client.upload(client.picture(GRACE))), GRACE)
