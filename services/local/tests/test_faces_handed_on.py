"""What is measured of a face, from face_recog's answer to the page."""

import numpy as np
import orjson

from services.common.clock import database_now
from services.common.database import Database
from services.common.facerecog import face_pb2
from services.common.facerecog.client import seen_faces
from services.common.faces import MEASURED, Box, measured
from services.common.quality import Quality
from services.face_recog.adapters.server import _response
from services.face_recog.domain import DetectedFace, Match, Outcome
from services.face_recog.service import Answer, NamedFace
from services.frontend.domain import Picture
from services.image_processor.adapters.rows import DatabaseRows as ProcessorRows
from services.image_processor.domain import Processed
from services.receiver.adapters.http.views import image_view
from services.receiver.adapters.rows.images import DatabaseImages
from services.receiver.domain.submissions import Submission

VALUES = dict.fromkeys(MEASURED, 0.25) | {
    "box": Box(1, 2, 30, 40),
    "quality": Quality(0.5, None, 1.0, 0.5, 0.75, 1.0),
}


async def test_all_that_is_measured_of_a_face_comes_to_the_page(database: Database) -> None:
    face = DetectedFace(**VALUES, encoding=np.ones(128))  # type: ignore[arg-type]
    nobody = NamedFace(face, Match([], ambiguous=False, outcome=Outcome.UNKNOWN))
    wire = _response(Answer(100, 90, [nobody]), "engine").SerializeToString()

    found = seen_faces(face_pb2.IdentifyResponse.FromString(wire))
    rows, processor = DatabaseImages(database), ProcessorRows(database, database_now)
    image_id = (await rows.add([Submission("a.jpg", "a")]))["a.jpg"].id
    claim = await processor.claim(image_id)
    assert claim
    assert await processor.finish(claim, Processed(found, 100, 90, "engine")) == "processed"

    image = await rows.get(image_id)
    assert image
    picture = Picture.model_validate_json(orjson.dumps(image_view(image)))
    assert [measured(one) for one in picture.faces] == [measured(face)]
