"""The stored faces that people finds."""

from collections.abc import Sequence

from services.common.facerecog.stored_faces import StoredFacesClient
from services.receiver.domain.faces import FaceKey


class GrpcNearestFaces:
    """The port ``NearestFaces`` on people."""

    def __init__(self, client: StoredFacesClient) -> None:
        self._client = client

    async def find(
        self, engine: str, encoding: bytes, limit: int
    ) -> Sequence[tuple[FaceKey, float]]:
        found = await self._client.find(engine, encoding, limit)
        return [(FaceKey(face.image_id, face.face_index), face.distance) for face in found]
