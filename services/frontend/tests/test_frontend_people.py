"""The page of people, and the pictures that make them known."""

import re

import httpx
import pytest

from services.frontend.tests.fake_receiver import (
    DOUBT,
    FakeReceiver,
    person_json,
)

INSIST = "Enrol it anyway"


def people_in(html: str) -> list[str]:
    return re.findall(r'id="open-\w+"><bdi>([^<]*)</bdi></a>', html)


async def test_people_are_shown_a_page_at_a_time(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.people = [person_json("Ada", 1), person_json("Bea & Co", 2)]
    answer = await pages.get("/people")
    assert receiver.calls.count("GET /people?limit=24") == 1
    assert people_in(answer.text) == ["Ada", "Bea &amp; Co"]
    # With everybody on one page there is nothing to look for and nowhere to go.
    assert 'type="search"' not in answer.text
    assert 'name="find"' not in answer.text
    assert 'id="next"' not in answer.text

    receiver.next_person = "Bea & Co"
    answer = await pages.get("/people", params={"name": "a", "cursor": "A?"})
    assert "GET /people?name=a&cursor=A%3F&limit=24" in receiver.calls
    assert 'type="search" id="find" name="name"' in answer.text
    assert 'href="/people?name=a&amp;cursor=Bea+%26+Co"' in answer.text
    assert 'href="/people?name=a"' in answer.text
    assert 'data-live="/fragments/people?name=a&amp;cursor=A%3F"' in answer.text
    fragment = await pages.get("/fragments/people", params={"name": "a", "cursor": "A?"})
    assert receiver.calls.count("GET /people?name=a&cursor=A%3F&limit=24") == 2
    assert people_in(fragment.text) == ["Ada", "Bea &amp; Co"]


async def test_a_page_of_nobody_leads_to_everybody(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for params, words in (
        ({"name": "<x>"}, "Nobody has “<bdi>&lt;x&gt;</bdi>” in the name"),
        ({"cursor": "Zoë"}, "Nobody else is known"),
    ):
        html = (await pages.get("/people", params=params)).text
        assert words in html
        assert 'href="/people">Show everybody' in html


async def test_names_follow_what_is_typed(pages: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.people = [person_json("Ada", 1), person_json('"<Ada>"', 2)]
    answer = await pages.get("/fragments/names", params={"name": "ad&"})
    assert answer.json() == ["Ada", '"<Ada>"']
    assert receiver.calls == ["GET /people?name=ad%26&limit=100"]
    receiver.away = True
    answer = await pages.get("/fragments/names", params={"name": "ad&"})
    assert (answer.status_code, answer.json()) == (200, [])


async def test_who_is_added_among_many_is_shown(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.next_person = "Ada"
    receiver.answers = {"POST /people/Z%20%26/pictures": httpx.Response(201)}
    assert 'name="find" value="yes"' in (await pages.get("/people")).text
    data, files = {"person": "Z &", "find": "yes"}, {"file": ("z.jpg", b"content")}
    answer = await pages.post("/people", data=data, files=files)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/people?name=Z+%26")
    asked = {"Accept": "application/json"}
    answer = await pages.post("/people", data=data, files=files, headers=asked)
    assert answer.json() == {"then": "/people?name=Z+%26"}


async def test_a_receiver_without_pages_shows_everybody(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.people = [person_json(f"Person {number}", number) for number in range(1, 201)]
    everybody = {"people": receiver.people}  # whatever it is asked for
    receiver.answers = {"GET /people": httpx.Response(200, json=everybody)}
    assert len(people_in((await pages.get("/people")).text)) == 200
    assert (await pages.get("/")).text.count('<option value="~') == 200


async def test_people_names_are_text_and_whole_path_segments(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    name = '"><b>/../%2e?#'
    receiver.people = [person_json(name, 4)]
    html = (await pages.get("/people")).text
    assert "<b>" not in html
    assert 'action="/people/~4/pictures/4/delete"' in html
    assert 'src="/people/~4/pictures/4/thumbnail' in html
    # A receiver of before finds nobody by id.
    receiver.people = [{"id": 4, "name": name, "pictures": receiver.people[0]["pictures"]}]
    html = (await pages.get("/people")).text
    assert "<b>" not in html
    address = "/people/%22%3E%3Cb%3E%2F..%2F%252e%3F%23/pictures/4"
    assert f'action="{address}/delete"' in html
    assert f'src="{address}/thumbnail' in html


async def test_a_picture_in_doubt_is_added_when_somebody_insists(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.people = [person_json("Ada", 1)]
    receiver.answers = {
        "POST /people/Ada/pictures": DOUBT,
        "POST /people/Ada/pictures?insist=true": httpx.Response(201),
    }
    files = {"file": ("ada.jpg", b"picture")}
    asked = {"Accept": "application/json"}
    answer = await pages.post("/people", data={"person": "Ada"}, files=files, headers=asked)
    assert (answer.status_code, answer.json()) == (
        422,
        {
            "message": "The face is blurred: choose a sharper picture.",
            "can_insist": True,
            "insist": "true",
            "choices": answer.json()["choices"],  # it may be somebody else of that name
        },
    )
    data = {"person": "Ada", "insist": "true"}
    assert (await pages.post("/people", data=data, files=files)).status_code == 303
    # Both forms of the page have the button, and a box to tick where no script shows it.
    people = (await pages.get("/people")).text
    assert people.count(INSIST) == people.count('type="checkbox" name="insist"') == 2


async def test_a_known_picture_is_added(pages: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    receiver.answers = {"POST /people/Ada/pictures": httpx.Response(201)}
    answer = await pages.post(
        "/people", data={"person": "Ada"}, files={"file": ("ada.jpg", b"content")}
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/people")
    assert receiver.calls == ["POST /people/Ada/pictures"]
    assert b"content" in receiver.bodies[0]


@pytest.mark.parametrize(
    ("data", "files", "message"),
    [
        ({"person": " "}, {"file": ("a.jpg", b"x")}, "Enter a name."),
        ({"person": "Ada"}, {"file": ("", b"")}, "Choose a picture."),
        ({"person": "Ada"}, {"other": ("a.jpg", b"x")}, "Choose a picture."),
        ({"person": "Ada"}, None, "Choose one picture."),
        ({"person": "Ada"}, {"file": ("a.jpg", bytes(21 * 2**20))}, "larger than 20 MB"),
    ],
)
async def test_a_known_picture_needs_a_name_and_a_file(
    pages: httpx.AsyncClient,
    receiver: FakeReceiver,
    data: dict[str, str],
    files: dict[str, tuple[str, bytes]] | None,
    message: str,
) -> None:
    answer = await pages.post("/people", data=data, files=files)
    assert answer.status_code in {413, 422}
    assert message in answer.text
    assert receiver.calls == []
