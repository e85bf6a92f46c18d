"""Every statement of every service, in an order in which each has something to do."""

import dataclasses

import sqlalchemy as sa

from services.backup.adapters.rows import DatabaseBackupRows
from services.common import tables
from services.common.clock import database_now, now_ms
from services.common.database import Database
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.faces import Box, Likely, SeenFace
from services.common.object_info import ObjectInfo
from services.common.quality import Quality
from services.common.stored_pictures import Removal, StoredPicture
from services.common.webhooks import WebhookType
from services.image_processor import domain as processing
from services.image_processor.adapters.encoding_rows import DatabaseEncodingRows
from services.image_processor.adapters.rows import DatabaseClaims
from services.people.adapters.group_rows import DatabaseGrouping
from services.people.adapters.rows import DatabaseStoredFaces
from services.people.domain.grouping import LikelyPair
from services.people.domain.regrouping import Regrouped
from services.receiver.adapters.rows.api_keys import DatabaseApiKeys
from services.receiver.adapters.rows.attempts import DatabaseAttempts
from services.receiver.adapters.rows.audit import DatabaseAudit
from services.receiver.adapters.rows.backups import DatabaseBackups
from services.receiver.adapters.rows.deliveries import DatabaseDeliveries
from services.receiver.adapters.rows.encoding import DatabaseEncoding
from services.receiver.adapters.rows.erasures import DatabaseErasures
from services.receiver.adapters.rows.events import DatabaseEvents
from services.receiver.adapters.rows.garbage import DatabaseGarbage as ReceiverGarbage
from services.receiver.adapters.rows.groups import DatabaseGroups
from services.receiver.adapters.rows.images import DatabaseImages as ReceiverRows
from services.receiver.adapters.rows.known_pictures import DatabaseKnownPictures
from services.receiver.adapters.rows.merges import DatabaseMerges
from services.receiver.adapters.rows.people import DatabasePeople
from services.receiver.adapters.rows.personal_data import DatabasePersonalData
from services.receiver.adapters.rows.sessions import DatabaseSessions
from services.receiver.adapters.rows.users import DatabaseUsers
from services.receiver.domain.access import AccessScope, Role
from services.receiver.domain.acts import Act, SubjectKind
from services.receiver.domain.attempts import FORGOTTEN_AFTER_MS
from services.receiver.domain.backups import BackupStatus
from services.receiver.domain.cursors import PersonKey
from services.receiver.domain.encoding import EncodingReport, EncodingState
from services.receiver.domain.erasing import Erased, Stage
from services.receiver.domain.faces import FaceKey, FaceOfResult
from services.receiver.domain.groups import Answer
from services.receiver.domain.keys import SecretKey, WantedKey
from services.receiver.domain.merges import Merged
from services.receiver.domain.objects import StoredFace
from services.receiver.domain.people import NewKnownPicture, Somebody
from services.receiver.domain.submissions import Submission, Upload
from services.receiver.domain.users import Identity, StoredPassword, UserChange
from services.redeemer.adapters.garbage import DatabaseDueGarbage
from services.redeemer.adapters.repairs import DatabaseRepairs
from services.redeemer.adapters.retention import DatabaseOldAudit, DatabaseOldPictures
from services.testing.recogniser import ENCODING
from services.webhooks import domain as telling
from services.webhooks.adapters.rows import DatabaseWebhookDeliveries

LEASE_OVER = 31_000

DIGEST = "d" * 64


async def run_every_statement(  # noqa: PLR0915, PLR0917, one after the other
    receiver: Database,
    image_processor: Database,
    redeemer: Database,
    people_s: Database,
    webhooks: Database,
    backup: Database,
) -> None:
    """Use each service's adapters, all of them, each on its own connections.

    The first person is to have changed before there is one: see ``CHANGED``.
    """
    for database in (receiver, image_processor, redeemer, people_s, webhooks, backup):
        await database.check()
    rows = ReceiverRows(receiver)
    people = DatabasePeople(receiver)
    known_pictures = DatabaseKnownPictures(receiver)
    processor = DatabaseClaims(image_processor, database_now)

    act = Act("submit_many", "::1", audited=True), [Submission("a.jpg", "A")]
    submitted = await rows.add([Submission("a.jpg", "A"), Submission("b.jpg", "B")], [act])
    its = {SubjectKind.IMAGE: submitted["a.jpg"].id}
    done = await DatabaseAudit(receiver).page(subjects=its, who="", before=9, limit=9)
    assert [one.action for one in done.items] == ["submit_many"]
    repeated = await rows.add([Submission("a.jpg", "A"), Submission("c.jpg", "C")])
    assert repeated["a.jpg"].duplicate
    first, second, third = (
        rows_[path].id
        for rows_, path in (
            (submitted, "a.jpg"),
            (submitted, "b.jpg"),
            (repeated, "c.jpg"),
        )
    )
    changes = DatabaseEvents(receiver)
    position = await changes.latest()
    hooks = DatabaseWebhookDeliveries(webhooks, database_now, kept_ms=LEASE_OVER)
    endpoint = telling.Endpoint("https://example.org", b"k" * 24, frozenset(WebhookType))
    assert await hooks.make([endpoint])
    async with receiver.transaction() as connection:
        await note_events(connection, database_now(), EventKind.IMAGE, [first])
    assert not await changes.lost(position)
    assert [one.status for one in (await changes.after(position)).changes] == ["pending"]
    notes = ReceiverGarbage(receiver)
    await notes.expect(f"known_people/Ada/{DIGEST}.1.jpg")
    ada = await people.who("Ada")
    known = await known_pictures.add(NewKnownPicture(ada, f"Ada/{DIGEST}.1.jpg", DIGEST), None)
    assert known
    ada = await people.who("Ada")
    assert (ada.id, ada.folder) == (known.person_id, "Ada")
    assert await known_pictures.find(DIGEST) == known

    assert await processor.pending(10) == [first, second, third]
    claim = await processor.claim(first)
    assert claim
    assert await processor.renew(claim)
    candidate = Likely(known.image_name, "somebody", 0.25, 4.5)
    quality = Quality(0.25, "blurred", 1.0, 0.25, 0.75, 1.0)
    face = SeenFace(Box(1, 2, 30, 40), 0.5, False, (candidate,), quality=quality, encoding=ENCODING)
    result = processing.Processed((face, face), 9, 9, "test", "tag", calibration=1)
    assert await processor.finish(claim, result) == "processed"
    image = await rows.get(first)
    assert image
    assert [one.person for one in image.faces] == ["Ada", "Ada"]
    assert [one.quality for one in image.faces] == [quality, quality]
    await _decide_again(DatabaseStoredFaces(people_s, database_now), first)
    encodings = DatabaseEncodingRows(image_processor, database_now)
    assert await encodings.claim()
    assert await encodings.decide_again(), "no change of a person is left"
    await encodings.release()
    named = FaceOfResult(first, 1, image.processed_at)
    await notes.expect("known_people/Ada/again.jpg")
    again = NewKnownPicture(ada, "Ada/again.jpg", DIGEST)
    assert await known_pictures.add(again, named) == known
    assert await known_pictures.replace_object(known, again)
    await _say_by_hand(receiver, FaceKey(first, 1))
    await _group(receiver, DatabaseGrouping(people_s, database_now), first, ada.id or 0)
    await notes.expect("known_people/Ada/third.jpg")
    assert await known_pictures.add(NewKnownPicture(ada, "Ada/third.jpg", DIGEST), named)

    await _encode_again(receiver, image_processor, first)

    failing, rejecting = await processor.claim(second), await processor.claim(third)
    assert failing
    assert rejecting
    assert await processor.finish(failing, processing.Failed("broken")) == "failed"
    assert await processor.finish(rejecting, processing.Rejected("no picture")) == "rejected"
    assert await rows.retry(third)
    await _tell(hooks, DatabaseDeliveries(receiver), endpoint)

    repair = DatabaseRepairs(redeemer, lambda: database_now() + LEASE_OVER)
    assert await repair.take_failed() == [second]
    assert await processor.claim(second)
    assert await repair.take_abandoned() == [second]
    assert await repair.mark_abandoned_dead() == []
    assert third in await repair.take_waiting()
    assert await repair.forget_events() == 0
    assert (await repair.census()).counts == {"processed": 1, "pending": 2}

    assert (await rows.status()).images["processed"] == 1
    page = await rows.page(status=None, person=ada, before=None, limit=10)
    assert [one.id for one in page.items] == [first]
    its_picture = StoredPicture("a.jpg", False, "tag")
    assert await rows.stored(first) == its_picture
    assert await rows.stored_face(first, 1) == StoredFace(its_picture, Box(1, 2, 30, 40))
    assert not await rows.recognise(first), "a face was named by hand"
    assert await rows.look_again(first, "tag")
    assert await rows.delete(first, "a.jpg", Removal("pictures/a.jpg", "tag"))
    assert await rows.get(first) is None
    assert [one.name for one in await people.all()] == ["Ada", "Bob"]
    assert await people.get(known.person_id)
    found = await people.page(who="Ada", part="ad", hidden=False, after=PersonKey("A", 9), limit=1)
    assert [one.name for one in found.items] == ["Ada"]
    again_known = await known_pictures.find(DIGEST) or known
    await known_pictures.delete_picture(again_known.id)
    by_hand = ObjectInfo("known_people/Ada/by hand", 1, "tag", 1.0)
    assert await people.delete(ada, [by_hand])
    await _forget(receiver, people)
    await _upload_twice(rows, notes)
    await _erase_old(receiver, people_s, redeemer)
    await _back_up(receiver, redeemer, backup)
    await _give_keys(DatabaseApiKeys(receiver))
    collecting = DatabaseDueGarbage(redeemer, database_now)
    await _log_in(receiver)
    removals = await collecting.take()
    assert ("pictures/a.jpg", "tag") in [(one.key, one.tag) for one in removals]
    await collecting.removed(removals)


async def _log_in(receiver: Database) -> None:
    users = DatabaseUsers(receiver)
    sessions = DatabaseSessions(receiver, idle_ms=LEASE_OVER, longest_ms=LEASE_OVER)
    ada = await users.add("Ada", Role.EDITOR, "hash")
    stored = await users.password("Ada")
    assert stored == StoredPassword(ada.id, "hash")
    assert await sessions.begin("session", stored, "another hash")
    assert set(await sessions.valid(["session"])) == {"session"}
    await sessions.touch("session")
    await sessions.end("session")
    identity = Identity("https://id.example.org", "7", "Ada", ())
    assert await sessions.begin_for("session", identity, Role.VIEWER)
    assert await sessions.begin_for("another", identity, Role.EDITOR)
    over = DatabaseSessions(
        receiver, idle_ms=0, longest_ms=0, now=lambda: database_now() + LEASE_OVER
    )
    assert await over.forget_ended() == 1
    change = UserChange(Role.ADMINISTRATOR, "hash", disabled=False)
    assert (await users.change(ada.id, change, keep_administrator=True)).role == "administrator"
    await users.add("Bob", Role.ADMINISTRATOR, "hash")
    await users.delete(ada.id, keep_administrator=True)
    assert len((await users.page(after=ada.id, limit=9)).items) == 2
    attempts = DatabaseAttempts(receiver)
    for _ in range(2):
        assert await attempts.begin("192.0.2.1", "Ada") == 0
    await attempts.not_made("192.0.2.1", "Ada")
    await attempts.right("192.0.2.1", "Ada")
    later = DatabaseAttempts(receiver, lambda: database_now() + FORGOTTEN_AFTER_MS)
    assert await later.forget_old() == 1


async def _encode_again(receiver: Database, image_processor: Database, image_id: int) -> None:
    encodings = DatabaseEncodingRows(image_processor, database_now)
    work = await encodings.read()
    assert work.to_count
    assert await encodings.claim()
    await encodings.begin("later")
    await encodings.keep_others()
    assert await encodings.count("later", 0, image_id) == 1
    await encodings.begin_walk(1)
    assert await encodings.next("later", 0, image_id, 9) == [image_id]
    faces = await encodings.faces(image_id, "later")
    assert faces
    assert await encodings.store(faces, processing.Encoded("later", (ENCODING, None))) == 1
    await encodings.skip(image_id)
    await encodings.go_to(image_id)
    await encodings.end_walk()
    assert await encodings.remove_others("later", 0, image_id) == 2
    await encodings.end_removal()
    await encodings.release()
    report = await DatabaseEncoding(receiver).stop(stopped=True)
    assert report == EncodingReport(EncodingState.STOPPED, "later", 0, 1, 1)


async def _decide_again(rows: DatabaseStoredFaces, image_id: int) -> None:
    work = await rows.claim()
    assert work
    assert await rows.waiting() == 1
    await rows.renew(work)
    assert await rows.disagreement(work, {"Ada/2.jpg": True}) == ({f"Ada/{DIGEST}.1.jpg"}, set())
    assert await rows.newest_engine() == "test"
    assert await rows.last_image_id() >= image_id
    encodings = [(image_id, index, ENCODING) for index in range(2)]
    assert await rows.encodings(range(image_id + 1), "test") == encodings
    assert await rows.encodings([image_id], "test") == encodings
    position = await rows.latest()
    assert not await rows.lost(position)
    await rows.after(position)
    await rows.adopt(range(image_id + 1))
    await rows.adopt([image_id])
    assert image_id in await rows.touched(work)
    assert not await rows.rename(work)
    [picture] = await rows.pictures([image_id], "test")
    its = Likely(f"Ada/{DIGEST}.1.jpg", "Ada", 0.25, 4.5)
    other = Likely("Bob/1.jpg", "Bob", 0.25, 4.5)
    assert [name for _, name in (await rows.whose([its, other])).values()] == ["Ada", "Bob"]
    says = picture.faces[0].says
    nobody = dataclasses.replace(says, person=None, person_id=None, distance=None)
    await rows.write(work, [(picture, picture.faces[1], nobody)], image_id)
    await rows.write(work, [(picture, picture.faces[1], says)], image_id)
    assert await rows._new_person("Bob")
    await rows.give_back(work, 0)
    for _ in range(2):
        again = await rows.claim()
        assert again
        await rows.end_pass(again)
        rows = DatabaseStoredFaces(rows._database, lambda: database_now() + LEASE_OVER)
    assert await rows.claim() is None


async def _say_by_hand(receiver: Database, face: FaceKey) -> None:
    people = DatabasePeople(receiver)
    known_pictures = DatabaseKnownPictures(receiver)
    assert await known_pictures.picture(1)
    assert await known_pictures.unname(face, [DIGEST])
    ada = await people.who("Ada")
    assert ada.id
    assert await known_pictures.deny(face, ada, is_known=False)
    assert await known_pictures.allow(face, ada)
    assert await people.rename(ada.id, "Ida")
    assert (await people.of_folder("Ada")).name == "Ida"
    assert (await people.who("Ada")).folder == "Ada~2"
    assert await people.bearer("Ida") == ada.id
    assert await people.hide(ada.id, hidden=True)
    assert await people.hide(ada.id, hidden=False)
    assert await people.choose_face(ada.id, None)
    assert await people.rename(ada.id, "Ada")
    await _merge(DatabaseMerges(receiver), people, ada)


async def _merge(merges: DatabaseMerges, people: DatabasePeople, ada: Somebody) -> None:
    bob = await people.who("Bob")
    assert ada.id
    assert await merges.merge(ada, bob, []) == []
    whole = await people.get(ada.id)
    assert whole
    [merge] = whole.merges
    found = await merges.find(ada.id, merge.id)
    assert found == Merged(bob.id or 0, "Bob", "Bob", True, [], False)
    assert await merges.undo(ada, merge.id, "Bob", []) == []
    assert await people.who("Bob") == bob


async def _group(
    receiver: Database, groups: DatabaseGrouping, image_id: int, person_id: int
) -> None:
    rows = DatabaseGroups(receiver)
    claim = await groups.claim()
    assert claim
    await groups.renew(claim)
    await groups.begin(claim, "test")
    assert await groups.next_group() == 1
    key = image_id, 1
    assert await groups.unknown([image_id], "test") == {key: None}
    assert await groups.strays([image_id]) == []
    assert await groups.encodings([key], "test") == {key: ENCODING}
    both = Regrouped(placed={key: 2}, new=[1, 2, 3], touched=[1, 2, 3])
    await groups.write(claim, both)
    await groups.write(claim, Regrouped(merged={2: 1}, touched=[1], answered=[9]))
    assert await groups.grouped(range(image_id, image_id + 1), "test") == [(key, 1, ENCODING)]
    assert await groups.miscounted() == []
    assert await groups.means("test", len(ENCODING) // 4)
    asked = [LikelyPair(1, person_id, True, 7.5), LikelyPair(1, 3, False, 7.0)]
    await groups.ask(claim, asked)
    await groups.ask(claim, asked[:1])

    assert [one.id for one in (await rows.page(after=None, limit=9)).items] == [1]
    assert await rows.group(2, after=None, limit=9)
    [member] = await rows.members(2, person_id)
    assert await rows.is_unknown(member, person_id)
    [question] = await rows.questions(9)
    assert question.person_id == person_id
    assert await rows.question(question.id) == question
    await rows.answer(question.id, Answer.YES)
    assert await rows.strike(2, [member.key]) == 1

    assert await groups.denied([image_id]) == {key: {1}}
    [answered] = await groups.questions("yes")
    assert answered.is_person
    assert [answered] == await groups.questions()
    assert await groups.denied_people() == set()
    await groups.write(claim, Regrouped(placed={key: 4}, new=[4], touched=[4]))
    await groups.give_back(claim)

    assert await rows.name([member], person_id) == 1
    await rows.settle(question.id)


async def _forget(receiver: Database, people: DatabasePeople) -> None:
    bob = await people.who("Bob")
    kept = DatabasePersonalData(receiver)
    assert (await kept.person(bob)).name == "Bob"
    for part in (kept.known, kept.pictures, kept.denials, kept.merges):
        assert [one async for one in part(bob)] == []
    rows = DatabaseErasures(receiver)
    by_hand = ObjectInfo("known_people/Bob/by hand", 1, "tag", 1.0)
    assert await rows.begin(bob, [by_hand], pictures=True) == Erased(1, 0, 0)
    erasure = await rows.claim()
    assert erasure
    assert await rows.images(erasure) == []
    assert not await rows.strike_out(erasure)
    await rows.remove_known(erasure, [by_hand])
    assert not await rows.remove_lost(erasure)
    assert not await rows.remove_denials(erasure)
    assert await rows.remove_questions(erasure) is None
    assert await rows.is_leaving(erasure)
    await rows.give_back(erasure, 0, Stage.LAST)
    last = await rows.claim()
    assert last
    await rows.end(last)


async def _back_up(receiver: Database, redeemer: Database, backup: Database) -> None:
    rows = DatabaseBackupRows(backup, database_now)
    report = DatabaseBackups(receiver, max_age_seconds=1)
    assert await report.report() is None
    await rows.begin("20260101T000000Z")
    async with rows.holding("20260101T000000Z"):
        assert await DatabaseDueGarbage(redeemer, database_now).take() == []
    await rows.end("20260101T000000Z", None, "no space left")
    assert await report.report() == BackupStatus(None, False, "no space left")
    async with backup.reading() as connection:
        for table in tables.metadata.sorted_tables:
            await connection.execute(sa.select(table))


async def _erase_old(receiver: Database, people_s: Database, redeemer: Database) -> None:
    """Have a face's picture go that is alone in its group, and a known picture with it."""
    its = {"image_id": 9, "face_index": 0}
    now = {"created_at": 1}
    image = {"path": "old.jpg", "name": "Old", "status": "processed", "attempt": 1, "updated_at": 1}
    box = dict.fromkeys(("left", "top", "right", "bottom", "detection_score"), 1)
    async with receiver.transaction() as connection:
        for table, values in (
            (tables.images, {"id": 9, **image, **now}),
            (tables.faces, {**its, **box, "ambiguous": False, "candidates": []}),
            (tables.persons, {"id": 9, "name": "Old", "folder": "Old", **now}),
            (tables.person_images, {"id": 9, "person_id": 9, "image_name": "Old/1", **its, **now}),
            (tables.audit, dict.fromkeys(("kind", "who", "address", "action"), "x") | {"at": 1}),
        ):
            await connection.execute(sa.insert(table).values(values))
    async with people_s.transaction() as connection:
        await connection.execute(sa.insert(tables.face_groups).values(id=9, size=1, **now))
        await connection.execute(sa.insert(tables.group_faces).values(**its, group_id=9))
        question = sa.insert(tables.group_questions)
        await connection.execute(question.values(group_id=9, person_id=9, **now))
    old_pictures = DatabaseOldPictures(redeemer, database_now, now_ms, kept_ms=LEASE_OVER)
    [old] = (await old_pictures.page(0)).pictures
    assert await old_pictures.erase({old: None}) == [old.image_id]
    async with people_s.reading() as connection:
        for table in (tables.person_images, tables.group_questions):
            query = sa.select(sa.func.count()).select_from(table).where(table.c.person_id == 9)
            assert await connection.scalar(query) == 0
    old_audit = DatabaseOldAudit(redeemer, database_now, now_ms, kept_ms=LEASE_OVER)
    assert await old_audit.remove() == 1


async def _tell(
    hooks: DatabaseWebhookDeliveries, deliveries: DatabaseDeliveries, endpoint: telling.Endpoint
) -> None:
    await hooks.make([endpoint])
    [told] = await hooks.take(endpoint.url, 1)
    assert (await hooks.data(told))["id"] == told.subject_id
    await hooks.finish(told, "away", None)
    [failed] = (await deliveries.page(status="failed", before=None, limit=9)).items
    assert (await deliveries.retry(failed.id)).status == "pending"
    assert await hooks.remove_old() == 0


async def _give_keys(keys: DatabaseApiKeys) -> None:
    one, other = (SecretKey(letter * 12, letter.encode() * 32) for letter in "ab")
    wanted = WantedKey("a camera", frozenset({AccessScope.READ}), 2**42)
    assert (await keys.add(one, wanted, by="somebody")).name == "a camera"
    assert (await keys.add_like(other, one.id, by="somebody")).scopes == wanted.scopes
    assert (await keys.valid([one.id, "c"])).keys() == {one.id}
    await keys.note_use(one.id)
    await keys.revoke(one.id)
    assert [key.id for key in await keys.all()] == [other.id, one.id]
    await keys.close()


async def _upload_twice(rows: ReceiverRows, notes: ReceiverGarbage) -> None:
    first, second = (Upload(f"uploads/{number}", "U", DIGEST) for number in (1, 2))
    for one in (first, second):
        await notes.expect(f"pictures/{one.path}")
    added = await rows.add_uploads([first])
    again = await rows.add_uploads([second])
    assert added
    assert again == [added[0]._replace(duplicate=True)]
    assert await rows.replace_object(again[0], second)


CHANGED = (
    "INSERT INTO people_work (person_id, folder, removed, due_at, after_image_id, passes_left)"
    " VALUES (1, 'Ada', 1, 0, 0, 2)"
)
