"""The pages of unknown faces, with a receiver that answers from memory."""

import re

import httpx
import pytest

from services.frontend.tests.fake_groups import group_json, key_json, question_json, show
from services.frontend.tests.fake_receiver import FakeReceiver, person_json, problem

JSON = {"Accept": "application/json"}
NAMED = httpx.Response(200, json={"person": "Ada", "person_id": 7, "faces": 40})
MANY_ADAS = problem(409, "2 people are called 'Ada': say which one, ~3 or ~9")


def values(html: str, name: str) -> list[str]:
    """Return the values of a form's fields of a name."""
    return re.findall(rf'name="{name}" value="([^"]*)"', html)


async def test_groups_are_shown_in_the_order_of_the_receiver(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    show(receiver, group_json(8, 1, 2, size=1200), group_json(3, 5), next_cursor="c")
    html = (await pages.get("/who")).text
    assert re.findall(r'href="/who/(\d+)" id="[^"]*">([^<]*)<', html) == [
        ("8", "1,200 faces"),
        ("3", "1 face"),
    ]
    assert 'src="/images/2/faces/0/thumbnail"' in html
    assert 'href="/who?cursor=c"' in html
    assert "Go to the largest" not in html
    assert '<a href="/who" aria-label="Who is this?" aria-current="page">' in html
    assert "GET /groups?limit=12" in receiver.calls
    await pages.get("/who?cursor=c")
    assert "GET /groups?limit=12&cursor=c" in receiver.calls


async def test_where_there_is_nobody_to_name_the_page_says_what_to_do(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    show(receiver)
    html = (await pages.get("/who")).text
    assert "Nobody to name" in html
    assert "Upload more pictures" in html
    assert "Same person?" not in html
    assert "No more groups" in (await pages.get("/who?cursor=c")).text


async def test_one_field_names_a_group(pages: httpx.AsyncClient, receiver: FakeReceiver) -> None:
    show(receiver, group_json(8, 1, size=40))
    receiver.answers["PUT /groups/8/person"] = NAMED
    answer = await pages.post("/who/8", data={"person": " Ada "})
    assert (answer.status_code, answer.headers["location"]) == (303, "/who")
    assert receiver.sent("PUT /groups/8/person") == {"name": "Ada", "another": False, "except": []}
    by_script = await pages.post("/who/8", data={"person": "Ada"}, headers=JSON)
    assert by_script.json()["said"] == "40 faces are Ada now."


async def test_faces_that_do_not_belong_are_left_out_first(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    show(receiver, group_json(8, 1, 2, 3))
    receiver.answers["PUT /groups/8/person"] = NAMED
    html = (await pages.get("/who/8")).text
    assert values(html, "except") == ["1-0", "2-0", "3-0"]
    assert re.findall(r'href="/images/(\d+)"', html) == ["1", "2", "3"]
    await pages.post("/who/8", data={"person": "Ada", "except": ["1-0", "3-0"]})
    sent = receiver.sent("PUT /groups/8/person")
    assert sent == {"name": "Ada", "another": False, "except": [key_json(1), key_json(3)]}


async def test_faces_are_left_out_of_a_group_also_without_a_name(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    show(receiver, group_json(8, 1, 2, 3))
    receiver.answers["DELETE /groups/8/faces/2/0"] = httpx.Response(204)
    # That of picture 3 is gone already: somebody else was faster.
    form = {"leave_out": "yes", "person": "", "except": ["2-0", "3-0", "no face"]}
    answer = await pages.post("/who/8", data=form, headers=JSON)
    assert answer.json() == {"then": "/who/8", "said": "2 faces left out of this group."}
    assert [call for call in receiver.calls if call.startswith("DELETE")] == [
        "DELETE /groups/8/faces/2/0",
        "DELETE /groups/8/faces/3/0",
    ]
    nothing = await pages.post("/who/8", data={"leave_out": "yes"}, headers=JSON)
    assert (nothing.status_code, nothing.json()["message"]) == (
        422,
        "Tick the faces that do not belong.",
    )


@pytest.mark.parametrize("alone", [{}, {"alone": "yes"}])
async def test_a_refused_name_is_shown_with_what_was_typed_and_left_out(
    pages: httpx.AsyncClient, receiver: FakeReceiver, alone: dict[str, str]
) -> None:
    show(receiver, group_json(8, 1, 2), group_json(9, 4))
    receiver.answers["PUT /groups/8/person"] = problem(422, "a name must not contain /")
    answer = await pages.post("/who/8", data={"person": "A/B", "except": "2-0", **alone})
    assert answer.status_code == 422
    assert answer.text.count("A name must not contain /.") == 1
    assert 'value="A/B"' in answer.text
    ticked = ["2-0"] if alone else []
    assert re.findall(r'id="face-([^"]*)" checked', answer.text) == ticked
    by_script = await pages.post("/who/8", data={"person": "A/B"}, headers=JSON)
    assert by_script.json() == {"message": "A name must not contain /."}
    empty = await pages.post("/who/8", data={"person": " "}, headers=JSON)
    assert empty.json() == {"message": "Enter a name."}


async def test_a_name_of_two_people_is_answered_with_whom_to_choose_from(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    show(receiver, group_json(8, 1, 2))
    receiver.answers["PUT /groups/8/person"] = MANY_ADAS
    receiver.answers["GET /people?person=Ada&limit=20"] = httpx.Response(
        200,
        json={
            "people": [
                {**person_json("Ada", 1, 2), "id": 3, "face": key_json(77)},
                {**person_json("Ada"), "id": 9},
            ]
        },
    )
    form = {"person": "Ada", "except": "2-0", "alone": "yes"}
    answer = await pages.post("/who/8", data=form)
    assert answer.status_code == 409
    assert "2 people are called &#39;Ada&#39;" in answer.text
    assert values(answer.text, "who") == ["~3", "~9"]
    assert "2 known pictures, ~3" in answer.text
    assert 'src="/images/77/faces/0/thumbnail"' in answer.text
    choices = (await pages.post("/who/8", data=form, headers=JSON)).json()["choices"]
    assert values(choices, "who") == ["~3", "~9"]

    for chosen, sent in (
        ({"who": "~9"}, {"name": "~9", "another": False}),
        ({"another": "true"}, {"name": "Ada", "another": True}),
    ):
        receiver.calls.clear()
        receiver.bodies.clear()
        receiver.answers["PUT /groups/8/person"] = NAMED
        await pages.post("/who/8", data={**form, **chosen})
        assert receiver.sent("PUT /groups/8/person") == {**sent, "except": [key_json(2)]}


async def test_another_conflict_is_said_as_it_is(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    show(receiver, group_json(8, 1))
    receiver.answers["PUT /groups/8/person"] = problem(409, "the group has just changed")
    answer = await pages.post("/who/8", data={"person": "Ada"}, headers=JSON)
    assert answer.json() == {"message": "The group has just changed."}


async def test_a_merged_group_leads_to_the_one_it_is_in(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    receiver.answers["GET /groups/8"] = httpx.Response(200, json=group_json(5, 1, 2))
    answer = await pages.get("/who/8")
    assert (answer.status_code, answer.headers["location"]) == (303, "/who/5")


async def test_a_group_without_unknown_faces_leads_to_the_next(pages: httpx.AsyncClient) -> None:
    for path, status in (("/who/8", 404), ("/fragments/who/8", 200)):
        answer = await pages.get(path)
        assert answer.status_code == status
        assert "No face is without a name here any more." in answer.text
        assert "Go on with the next group" in answer.text
        assert "Save name" not in answer.text


async def test_who_names_a_group_of_several_pages_is_told_of_the_others(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    show(receiver, group_json(8, 1, size=90, next_cursor="c"))
    html = (await pages.get("/who/8")).text
    assert "on the other pages, too" in html
    assert 'href="/who/8?cursor=c"' in html
    show(receiver, group_json(8, 1))
    assert "on the other pages, too" not in (await pages.get("/who/8")).text


async def test_two_groups_or_a_group_and_a_person_are_asked_about(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    questions = [
        question_json(1, group_json(8, 1, size=40), other=group_json(9, 2)),
        question_json(2, group_json(8, 1), person={"id": 3, "name": "<b>", "face": None}),
    ]
    show(receiver, questions=questions)
    html = (await pages.get("/who")).text
    assert "Same person?" in html
    assert 'aria-label="Same person: 40 faces and 1 face?"' in html
    assert 'aria-label="Same person: 1 face and &lt;b&gt;?"' in html
    assert 'href="/people/~3"' in html
    assert values(html, "answer") == ["yes", "no", "later"] * 2
    assert not re.search(r"<style|\sstyle=|\son\w+=|<b>", html)


@pytest.mark.parametrize("answer", ["yes", "no", "later"])
async def test_an_answer_is_passed_on(
    pages: httpx.AsyncClient, receiver: FakeReceiver, answer: str
) -> None:
    receiver.answers["PUT /questions/1"] = httpx.Response(204)
    done = await pages.post("/who/questions/1", data={"answer": answer})
    assert (done.status_code, done.headers["location"]) == (303, "/who")
    assert receiver.sent("PUT /questions/1") == {"answer": answer}
    # Of a person, it names a whole group.
    assert receiver.patience[-1] == 60


async def test_what_somebody_else_has_answered_is_no_question_any_more(
    pages: httpx.AsyncClient,
) -> None:
    assert (await pages.post("/who/questions/1", data={"answer": "no"})).status_code == 303
    assert (await pages.post("/who/questions/1", data={"answer": "maybe"})).status_code == 422


async def test_a_fragment_is_sent_once_and_again_when_it_changed(
    pages: httpx.AsyncClient, receiver: FakeReceiver
) -> None:
    for path in ("/fragments/who", "/fragments/who/8"):
        show(receiver, group_json(8, 1))
        first = await pages.get(path)
        same = {"If-None-Match": first.headers["ETag"]}
        assert (await pages.get(path, headers=same)).status_code == 304
        show(receiver, group_json(8, 1, 2))
        assert (await pages.get(path, headers=same)).status_code == 200


@pytest.mark.parametrize("path", ["/who", "/who/8"])
async def test_without_the_receiver_the_page_says_so_and_keeps_trying(
    pages: httpx.AsyncClient, receiver: FakeReceiver, path: str
) -> None:
    receiver.away = True
    answer = await pages.get(path)
    assert answer.status_code == 503
    assert "The receiver does not answer" in answer.text
    assert f'data-live="/fragments{path}" data-busy="yes"' in answer.text


async def test_a_receiver_of_before_there_were_groups_has_nobody_to_name(
    pages: httpx.AsyncClient,
) -> None:
    answer = await pages.get("/who")
    assert answer.status_code == 200
    assert "Nobody to name" in answer.text
