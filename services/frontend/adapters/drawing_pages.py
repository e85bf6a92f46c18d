"""What is done on a picture's page where no machine saw a face, or saw one that is none."""

from typing import Final

from fastapi import APIRouter, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from services.common.faces import Box
from services.frontend.adapters.answers import Answers, Naming, done, error_of, form_of, gone
from services.frontend.adapters.receiver import Receiver
from services.frontend.domain import RefusedError

_SIDES: Final = ("left", "top", "right", "bottom")
_MOST_DIGITS: Final = 9


class DrawingPages:
    """Actions on faces that are drawn and struck out."""

    def __init__(self, receiver: Receiver, answers: Answers) -> None:
        self._receiver = receiver
        self._answers = answers

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        post = router.post
        post("/images/{picture_id}/faces")(self.draw)
        post("/images/{picture_id}/faces/{index}/strike-out")(self.strike_out)
        post("/images/{picture_id}/faces/{index}/restore")(self.restore)
        return router

    async def draw(self, request: Request, picture_id: int) -> Response:
        """Add a face in the box that the form's numbers say, with the name in it, if any."""
        form = await form_of(request)
        naming = Naming.of(form)
        error = await error_of(self._draw(picture_id, form, naming))
        if error is None:
            return done(request, f"/images/{picture_id}")
        return self._answers.refused(request, await self._answers.refusal(error, naming))

    async def _draw(self, picture_id: int, form: FormData, naming: Naming) -> None:
        values = [str(form.get(side, "")).strip() for side in _SIDES]
        if not all(values):
            raise RefusedError(422, "Draw a box around the face first.")
        if not all(one.isascii() and one.isdigit() and len(one) <= _MOST_DIGITS for one in values):
            raise RefusedError(422, "A box has four whole numbers, in pixels of the picture.")
        box = Box(**dict(zip(_SIDES, map(int, values), strict=True)))
        await self._receiver.draw_face(picture_id, box, naming.who, another=naming.another)

    async def strike_out(self, request: Request, picture_id: int, index: int) -> Response:
        """Say that a face is none."""
        action = gone(self._receiver.strike_out_face(picture_id, index))
        return await self._answers.act(request, action, f"/images/{picture_id}")

    async def restore(self, request: Request, picture_id: int, index: int) -> Response:
        """Take back that a face is none."""
        action = self._receiver.restore_face(picture_id, index)
        return await self._answers.act(request, action, f"/images/{picture_id}")
