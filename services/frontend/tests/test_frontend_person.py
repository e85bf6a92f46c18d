"""People by id: the page of each, and those who share a name."""

import re
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

import httpx
import pytest

from services.frontend.tests.fake_receiver import (
    TIME,
    FakeReceiver,
    face_json,
    image_json,
    person_json,
    problem,
)

NASTY = "\"><b>Ada</b> & 'Co'"
FACE = {"image_id": 5, "face_index": 1}
SCRIPTED = {"Accept": "application/json"}
TAKEN = problem(409, "2 people are called 'Ada': say which one, ~3 or ~9")
DOUBT = httpx.Response(
    422,
    json={
        "title": "Unprocessable",
        "detail": "the face is blurred",
        "errors": [{"pointer": "/query/insist", "detail": "enrols it nevertheless, if true"}],
    },
)


@pytest.fixture
def receiver(receiver: FakeReceiver) -> FakeReceiver:
    """A receiver that knows two people called Ada, and a third person."""
    receiver.people = [
        person_json("Ada", 3, 4, face={"image_id": 5, "face_index": 1}),
        person_json("Ada", 9),
        person_json("Bea", 20),
    ]
    receiver.images = [image_json(5, faces=[face_json(0), of_ada(1)])]
    both = {"people": receiver.people[:2], "next_cursor": None}
    receiver.answers = {
        "GET /people?person=Ada&limit=20": httpx.Response(200, json=both),
        "GET /people?person=Ada&hidden=true&limit=20": httpx.Response(200, json={"people": []}),
    }
    return receiver


def of_ada(index: int, **values: object) -> dict[str, object]:
    return face_json(index, **{"person": "Ada", "person_id": 3, "distance": 0.3, **values})


def part(html: str, name: str) -> str:
    """Return what a page shows in a live region."""
    return html.split(f'data-region="{name}"')[1].partition("data-region=")[0]


async def test_a_page_shows_a_persons_pictures_and_marks_their_face(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.next_cursor = "older&more"
    html = (await pages.get("/people/~3", params={"cursor": "c=1"})).text
    assert "GET /images?person=~3&cursor=c%3D1&limit=24" in receiver.calls
    assert "GET /status?person=~3" in receiver.calls
    assert "<h1><bdi>Ada</bdi></h1>" in html
    assert "2 known pictures" in part(html, "profile")
    assert "1 picture<" in part(html, "profile")
    assert 'src="/images/5/faces/1/thumbnail"' in part(html, "profile")
    assert re.findall(r'class="face (\w+)" data-face="(\d)"', html) == [("known", "1")]
    assert 'href="/people/~3?cursor=older%26more"' in html
    assert 'data-live="/fragments/people/~3?cursor=c%3D1"' in html
    fragment = await pages.get("/fragments/people/~3", params={"cursor": "c=1"})
    assert part(fragment.text, "list") == part(html, "list")
    tag = {"If-None-Match": fragment.headers["ETag"]}
    again = await pages.get("/fragments/people/~3", params={"cursor": "c=1"}, headers=tag)
    assert again.status_code == 304


async def test_the_face_that_stands_for_somebody_may_be_a_known_picture_or_none(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    html = (await pages.get("/people/~9")).text
    assert 'class="portrait" src="/people/~9/pictures/9/thumbnail' in html
    receiver.people = [person_json("Ada")]
    html = (await pages.get("/people/~7")).text
    assert 'class="portrait nobody"' in html


async def test_of_many_known_pictures_the_newest_are_shown_and_the_rest_on_demand(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.people = [person_json("Ada", *range(1, 101))]
    html = part((await pages.get("/people/~1")).text, "known")
    shown = [int(number) for number in re.findall(r"pictures/(\d+)/delete", html)]
    assert shown == list(range(78, 101))
    assert "The newest 23 of 100" in html
    every = part((await pages.get("/people/~1?known=all")).text, "known")
    assert every.count("/delete") == 100
    card = (await pages.get("/people")).text
    assert card.count("/pictures/") < 20
    assert "All 100 known pictures" in card


@pytest.mark.parametrize(
    ("action", "call", "sent"),
    [
        ("/rename?person= Ida ", "PATCH /people/~3", {"name": "Ida"}),
        ("/rename?person=Bea&another=true", "PATCH /people/~3", {"name": "Bea", "another": True}),
        ("/hide", "PATCH /people/~3", {"hidden": True}),
        ("/show", "PATCH /people/~3", {"hidden": False}),
        ("/faces/5/1/stand", "PUT /people/~3/face", FACE),
        ("/faces/5/1/name?person=Bea", "POST /people/Bea/pictures", FACE),
        ("/merge?person=~9", "POST /people/~3/merge", {"name": "~9"}),
    ],
)
async def test_an_action_leads_back_to_the_person(
    pages: httpx.AsyncClient,
    receiver: FakeReceiver,
    action: str,
    call: str,
    sent: dict[str, object],
) -> None:
    receiver.answers[call] = httpx.Response(200, json={})
    path, _, form = action.partition("?")
    answer = await pages.post(f"/people/~3{path}", data=dict(parse_qsl(form)))
    assert (answer.status_code, answer.headers["Location"]) == (303, "/people/~3")
    assert receiver.sent(call) == sent


async def test_a_refused_name_is_said_in_place_and_two_may_bear_one(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers["PATCH /people/~3"] = problem(409, "'Bea' is the name of somebody else, ~20")
    answer = await pages.post("/people/~3/rename", data={"person": "Bea"})
    assert answer.status_code == 409
    profile = part(answer.text, "profile")
    assert "is the name of somebody else, ~20." in profile
    assert 'value="Bea"' in profile
    assert 'name="another" value="true"><bdi>Call both Bea</bdi>' in profile
    scripted = await pages.post("/people/~3/rename", data={"person": "Bea"}, headers=SCRIPTED)
    assert "Call both Bea" in scripted.json()["choices"]


async def test_who_is_named_by_a_name_stays_on_their_page_after_another(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    bea = receiver.people[2]
    receiver.answers["GET /people/Bea"] = httpx.Response(200, json=bea)
    receiver.answers["PATCH /people/Bea"] = httpx.Response(200, json={})
    html = (await pages.get("/people/Bea")).text
    assert 'data-live="/fragments/people/~20"' in html
    assert 'action="/people/~20/rename"' in html
    answer = await pages.post("/people/Bea/rename", data={"person": "Bea/ B"})
    assert answer.headers["Location"] == "/people/Bea%2F%20B"


async def test_the_receiver_takes_back_what_a_hand_said_with_the_denial(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    """Else who has named it otherwise meanwhile would lose that name."""
    denied = "PUT /images/5/faces/1/denials/~3?insist=true"
    receiver.answers[denied] = httpx.Response(204)
    assert (await pages.post("/people/~3/faces/5/1/deny")).status_code == 303
    assert receiver.calls == [denied]
    receiver.answers[denied] = problem(404, "image 5 has no face 1")
    assert (await pages.post("/people/~3/faces/5/1/deny")).status_code == 404


@pytest.mark.parametrize("form", ["/images/5/faces/0/name", "/people/~20/faces/5/0/name"])
async def test_of_two_people_of_one_name_one_is_chosen(
    pages: httpx.AsyncClient, receiver: FakeReceiver, form: str
) -> None:
    receiver.answers["POST /people/Ada/pictures"] = TAKEN
    receiver.answers["GET /images?person=~20&limit=24"] = httpx.Response(
        200, json={"images": [image_json(5, faces=[of_ada(0, person_id=20)])], "next_cursor": None}
    )
    answer = await pages.post(form, data={"person": "Ada"})
    assert answer.status_code == 409
    assert 'value="Ada"' in answer.text
    offered = re.findall(r'name="who" value="(~\d+)"', answer.text.split('class="choices"', 1)[1])
    assert {"~3", "~9"} <= set(offered)
    assert "1 known picture, ~9" in answer.text
    assert "Somebody else called Ada" in answer.text
    scripted = await pages.post(form, data={"person": "Ada"}, headers=SCRIPTED)
    assert scripted.json()["message"].startswith("2 people are called 'Ada'")
    assert 'value="~9"' in scripted.json()["choices"]

    for choice, call, sent in (
        ({"who": "~9"}, "POST /people/~9/pictures", {}),
        ({"another": "true"}, "POST /people/Ada/pictures", {"another": True}),
    ):
        receiver.calls.clear()
        receiver.bodies.clear()
        receiver.answers[call] = httpx.Response(201)
        assert (await pages.post(form, data={"person": "Ada", **choice})).status_code == 303
        assert receiver.sent(call) == {"image_id": 5, "face_index": 0, **sent}


async def test_a_receiver_of_before_has_nobody_of_the_same_name(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    everybody = [
        {"id": person["id"], "name": person["name"], "pictures": []} for person in receiver.people
    ]
    receiver.answers |= {
        "GET /people": httpx.Response(200, json={"people": everybody}),
        "POST /people/Ada/pictures": problem(409, "the face has just got a name"),
    }
    del receiver.answers["GET /people?person=Ada&limit=20"]
    del receiver.answers["GET /people?person=Ada&hidden=true&limit=20"]
    answer = await pages.post("/images/5/faces/0/name", data={"person": "Ada"}, headers=SCRIPTED)
    assert answer.json() == {"message": "The face has just got a name."}


@pytest.mark.parametrize(
    ("choice", "call"),
    [
        ({"who": "~9"}, "POST /people/~9/pictures"),
        ({"another": "true"}, "POST /people/Ada/pictures"),
        ({}, "POST /people/Ada/pictures"),
    ],
)
async def test_who_insists_means_the_one_who_was_chosen(
    pages: httpx.AsyncClient, receiver: FakeReceiver, choice: dict[str, str], call: str
) -> None:
    receiver.answers[call] = DOUBT
    refused = await pages.post("/images/5/faces/0/name", data={"person": "Ada", **choice})
    insisting = re.findall(r'name="insist" value="([^"]+)">', refused.text)
    assert len(insisting) == 1
    # Another person of the name is offered as long as it is not said who it is.
    assert ("Somebody else called Ada" in refused.text) == (not choice)
    receiver.calls.clear()
    receiver.bodies.clear()
    insisted = f"{call}?insist=true"
    receiver.answers[insisted] = httpx.Response(201)
    form = {"person": "Ada", "insist": insisting[0]}
    assert (await pages.post("/images/5/faces/0/name", data=form)).status_code == 303
    assert receiver.sent(insisted).get("another", False) == ("another" in choice)


async def test_a_picture_for_one_of_two_is_added_after_a_choice(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers["POST /people/Ada/pictures"] = TAKEN
    files = {"file": ("ada.jpg", b"picture")}
    plain = await pages.post("/people", data={"person": "Ada"}, files=files)
    assert plain.status_code == 409
    assert 'href="/people/~3"' in plain.text
    assert 'href="/people/~9"' in plain.text
    for choice, call, then in (
        ({"who": "~9"}, "POST /people/~9/pictures", "/people/~9"),
        ({"another": "true"}, "POST /people/Ada/pictures?another=true", "/people"),
    ):
        receiver.answers[call] = httpx.Response(201)
        answer = await pages.post("/people", data={"person": "Ada", **choice}, files=files)
        assert (answer.status_code, answer.headers["Location"]) == (303, then)
        assert call in receiver.calls


async def test_a_name_in_the_address_leads_to_whom_it_means(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers |= {"GET /people/Ada": TAKEN, "GET /images?person=Ada&limit=24": TAKEN}
    answer = await pages.get("/people/Ada")
    assert answer.status_code == 409
    assert 'href="/people/~9"' in answer.text
    pictures = await pages.get("/?person=Ada")
    assert "Several people are called <bdi>Ada</bdi>" in pictures.text
    assert 'href="/?person=~9"' in pictures.text
    assert 'value="Ada" selected' in pictures.text
    assert (await pages.get("/people/~99")).status_code == 404
    assert (await pages.get("/fragments/people/~99")).status_code == 404


async def test_pictures_are_filtered_by_id_and_the_name_is_said(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    html = (await pages.get("/?person=~20")).text
    assert "GET /images?person=~20&limit=24" in receiver.calls
    assert '<option value="~20" selected>Bea</option>' in html
    # Of two people of one name the list tells who is who.
    assert '<option value="~9">Ada (1 known picture, ~9)</option>' in html
    receiver.images = []
    receiver.next_person = "more"
    html = (await pages.get("/?person=~20")).text
    assert "shows <bdi>Bea</bdi>" in html


async def test_people_of_one_name_are_told_apart(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    html = (await pages.get("/people")).text
    keys = re.findall(r'data-key="(person-\w+)"', html)
    assert len(set(keys)) == 3
    assert re.findall(r'<span class="number"[^>]*>(~\d+)</span>', html) == ["~3", "~9"]
    assert 'src="/images/5/faces/1/thumbnail"' in html
    for address in ('href="/people/~3"', 'href="/?person=~3"', 'action="/people/~3/delete"'):
        assert address in html


async def test_hidden_people_are_behind_a_link(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    assert 'href="/people?hidden=yes"' in (await pages.get("/people")).text
    receiver.answers["GET /people?hidden=true&limit=24"] = httpx.Response(
        200, json={"people": [person_json("Zoë", 30, hidden=True)], "next_cursor": "Zoë/30"}
    )
    html = (await pages.get("/people?hidden=yes")).text
    assert "<h1>Hidden people</h1>" in html
    assert "Zoë" in html
    assert 'href="/people?hidden=yes&amp;cursor=Zo%C3%AB%2F30"' in html
    assert 'data-live="/fragments/people?hidden=yes"' in html
    receiver.people.append(person_json("Zoë", 30, hidden=True))
    one = (await pages.get("/people/~30")).text
    assert ">Hidden</span>" in one
    assert 'action="/people/~30/show"' in one


async def test_whom_to_merge_with_is_seen_before_and_taken_back_after(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    html = (await pages.get("/people/~3/merge", params={"name": "a"})).text
    assert "GET /people?name=a&limit=24" in receiver.calls
    assert re.findall(r'name="person" value="(~\d+)"', html) == ["~9", "~20"]
    assert 'src="/people/~9/pictures/9/thumbnail' in html
    receiver.answers["POST /people/~3/merge"] = problem(409, "they stand side by side on image 5")
    refused = await pages.post("/people/~3/merge", data={"person": "~9"})
    assert refused.status_code == 409
    before, after = refused.text.split('value="~9"')
    assert "They stand side by side on image 5." not in before
    assert "They stand side by side on image 5." in after.split("</form>")[0]

    merge = {"id": 4, "name": NASTY, "created_at": TIME}
    receiver.people[0]["merges"] = [merge]
    merges = part((await pages.get("/people/~3")).text, "merges")
    assert "&lt;b&gt;Ada" in merges
    assert 'action="/people/~3/merges/4/undo"' in merges


async def test_somebody_is_forgotten_for_good_in_two_steps(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    call = "POST /people/~3/erase"
    counts = {"known_pictures": 2, "faces": 1200, "pictures": 0}
    receiver.answers[call] = httpx.Response(200, json=counts)
    html = (await pages.get("/people/~3/erase")).text
    assert "2 known pictures" in html
    assert "Delete the picture that shows" in html
    unsure = await pages.post("/people/~3/erase", data={"pictures": "yes"})
    assert unsure.status_code == 422
    assert "Tick the box" in unsure.text
    assert call not in receiver.calls
    done = await pages.post("/people/~3/erase", data={"sure": "yes"})
    assert done.status_code == 200
    assert "2 known pictures, 1,200 faces and 0 submitted pictures are removed" in done.text
    assert receiver.sent(call) == {"pictures": False}
    receiver.calls.clear()
    receiver.bodies.clear()
    await pages.post("/people/~3/erase", data={"sure": "yes", "pictures": "yes"})
    assert receiver.sent(call) == {"pictures": True}
    receiver.answers[call] = problem(503, "the database is away")
    away = await pages.post("/people/~3/erase", data={"sure": "yes"})
    assert away.status_code == 503
    assert "The database is away." in away.text


async def test_an_export_is_passed_on_as_a_file(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers["GET /people/~3/export"] = httpx.Response(200, json={"name": "Ada"})
    answer = await pages.get("/people/~3/export")
    assert answer.json() == {"name": "Ada"}
    assert answer.headers["Content-Disposition"] == 'attachment; filename="person-3.json"'
    assert answer.headers["Cache-Control"] == "no-store"
    receiver.answers["GET /people/~3/export"] = problem(404, "there is nobody with the id 3")
    gone = await pages.get("/people/~3/export")
    assert (gone.status_code, gone.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    receiver.away = True
    assert (await pages.get("/people/~3/export")).status_code == 503


async def test_an_export_that_is_cut_off_does_not_look_whole(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"["
        raise httpx.ReadError("the receiver died")

    receiver.answers["GET /people/~3/export"] = httpx.Response(200, content=pieces())
    with pytest.raises(RuntimeError, match="cut off") as ended:
        await pages.get("/people/~3/export")
    assert str(ended.value.__cause__) == "the receiver died"


@pytest.mark.parametrize("path", ["/people/~3", "/people/~3/merge", "/people/~3/erase", "/people"])
async def test_any_name_is_text_and_no_page_needs_inline_script(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str
) -> None:
    receiver.people = [person_json(NASTY, 3), person_json(NASTY, 4)]
    receiver.images = [image_json(5, name=NASTY, faces=[of_ada(1, person=NASTY)])]
    html = (await pages.get(path)).text
    assert "<b>" not in html
    assert "&lt;b&gt;Ada&lt;/b&gt;" in html
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert set(re.findall(r"<script[^>]*>(.*?)</script>", html)) == {""}


@pytest.mark.parametrize("path", ["/people/~3", "/people/~3/merge", "/people/~3/erase"])
async def test_without_the_receiver_the_page_says_so(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str
) -> None:
    receiver.away = True
    answer = await pages.get(path)
    assert answer.status_code == 503
    assert "The receiver does not answer" in answer.text


async def test_a_receiver_of_before_gets_names(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.people = [{"id": 3, "name": "Ada B", "pictures": []}]
    receiver.answers = {}
    html = (await pages.get("/people")).text
    assert 'action="/people/Ada%20B/delete"' in html
    assert 'name="who" value="Ada B"' in html
    face = of_ada(1, person="Ada B")
    del face["denial_ids"]
    receiver.images = [image_json(5, faces=[face])]
    assert 'name="person" value="Ada B"' in (await pages.get("/images/5")).text
