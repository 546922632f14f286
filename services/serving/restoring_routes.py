"""``POST /v1/colourise`` and ``POST /v1/enlarge``, and what a job that restores may be asked."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request, Response

from datamodules.images import read_image
from datamodules.types import BadInputError
from modules.encoders.restoring import FACTOR, TASKS, Task
from services.pipeline.restore import restore_image, restoring_options
from services.serving.bodies import Body, accepted_image, encode_image, read_body
from services.serving.handling import WARNING_HEADER, admitted, deadline, headers_of, in_thread, state_of
from services.serving.job_request import alone
from services.serving.limits import error_response
from services.serving.openapi import TASK, takes
from services.serving.request_options import edit_options
from services.serving.schemas import ErrorOut

FACE = ("face",)
WITH_TASK = (*FACE, "start", "end")
"""What can be chosen of a job beside its task."""
_SUMMARIES: dict[Task, str] = {
    "colourise": "Give the face of a grey image likely colours, not true ones; all else comes back grey.",
    "enlarge": f"Make an image {FACTOR} times as wide and high, a small face with likely lines, not true ones.",
}


def task_of(body: Body) -> Task | None:
    """Take the task of a job out of its options; raises ``BadInputError`` for one that leaves edits no place."""
    text = body.options.pop(TASK, None)
    task = next((known for known in TASKS if text is not None and known == text.strip()), None)
    if text is None:
        return None
    if task is None:
        raise BadInputError(f"cannot use task={text[:64]!r}: it must be {' or '.join(TASKS)}")
    alone(body, f"task={task}", "a task", WITH_TASK)
    return task


def add_restoring(app: FastAPI) -> None:
    """Both routes."""
    for task in TASKS:
        _add(app, task)


def _add(app: FastAPI, task: Task) -> None:
    @app.post(
        f"/v1/{task}",
        tags=["images"],
        name=task,
        dependencies=[Depends(admitted, scope="function")],
        description=f"{_SUMMARIES[task]} PNG or JPEG, as Accept asks; {WARNING_HEADER} says what to beware of.",
        response_class=Response,
        responses={
            200: {"content": {"image/png": {}, "image/jpeg": {}}},
            404: {"model": ErrorOut, "description": "No model for it is shipped or registered."},
            406: {"model": ErrorOut},
        },
        openapi_extra=takes("image", "image/*", FACE, edits=False),
    )
    async def restore(request: Request) -> Response:
        state, runtime = state_of(request), state_of(request).runtime
        media_type = accepted_image(request.headers.get("accept", "*/*"))
        if media_type is None:
            return error_response("only image/png and image/jpeg are made; change the Accept header", 406)
        async with read_body(request, "image", FACE, edits=False) as body:
            data, face = await body.image(), edit_options(body.options).face
        session = state.engine.restoring(task)

        def work() -> tuple[bytes, tuple[str, ...]]:
            with state.turns.turn(runtime.request_seconds):
                late = deadline(runtime.request_seconds)
                image = read_image(data, runtime.max_pixels)
                options = restoring_options(face)
                made = restore_image(image, session.models, options, runtime.max_pixels, cancelled=late)
            return encode_image(made.image, media_type), made.warnings

        content, warnings = await in_thread(work)
        return Response(content, media_type=media_type, headers=headers_of(session.header, warnings))
