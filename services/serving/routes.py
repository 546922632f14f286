"""The HTTP API as a FastAPI app: what is asked is checked here, what is computed is the engine's."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from datamodules.disk import is_disk_full
from datamodules.images import read_image
from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from modules.out_of_memory import is_out_of_memory
from services.pipeline.edit import EditedImage, edit_image
from services.pipeline.invert import invert_image
from services.pipeline.sidecar import plain
from services.progress import CancelledError
from services.registry.errors import RegistryUnavailableError
from services.serving.bodies import accepted_image, encode_image, read_body
from services.serving.handling import (
    MODEL_HEADER,
    State,
    Value,
    admitted,
    deadline,
    headers_of,
    in_thread,
    state_of,
)
from services.serving.job_request import factor_of
from services.serving.jobs import Jobs
from services.serving.limits import (
    DISK_FULL,
    OUT_OF_MEMORY,
    Guard,
    RangedFile,
    error_response,
    in_api_terms,
    public_message,
)
from services.serving.measures import MEDIA_TYPE, Measures
from services.serving.openapi import CODES, EDITED, FACTOR, PIECES, RANGE, SUBJECT, TASK, takes
from services.serving.own_hosts import OwnHosts
from services.serving.request_options import edit_options
from services.serving.restoring_routes import add_restoring, task_of
from services.serving.schemas import (
    EditOut,
    EditsOut,
    ErrorOut,
    InvertOut,
    JobOut,
    ModelOut,
    ModelsOut,
    ReadyOut,
)
from services.serving.session import NotReadyError, ServedModel
from services.serving.subject_routes import add_subjects
from services.serving.turns import BusyError
from services.settings import Runtime
from services.version import version

log = logging.getLogger("stylereel.http")

SWEEP_SECONDS = 600.0
INVERT_OPTIONS = ("face", "refine")
IMAGE_OPTIONS = ("face", "refine", "paste", "region", "seed", "balance")
VIDEO_OPTIONS = (*IMAGE_OPTIONS, "start", "end", "preview", "adapt", "keep_lips", "stitch", SUBJECT, TASK, FACTOR)
JobId = Annotated[str, Path(description="Id of the job.", max_length=64)]


def create_app(open_state: Callable[[], AbstractContextManager[State]], runtime: Runtime) -> FastAPI:
    """The app; ``open_state`` is entered when the server starts and left when it stops.

    ``runtime`` says how large bodies may be, how slowly they may come, and which hosts are answered.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        manager = open_state()
        state = await anyio.to_thread.run_sync(manager.__enter__)
        app.state.state = state
        sweeping = asyncio.create_task(_sweep(state))
        try:
            yield
        finally:
            sweeping.cancel()
            await anyio.to_thread.run_sync(lambda: manager.__exit__(None, None, None))

    app = FastAPI(
        title="stylereel",
        version=version(),
        summary="Invert and edit faces in images and videos.",
        lifespan=lifespan,
        # The pages of FastAPI fetch their scripts from elsewhere, and BentoML's tells Google: ours is below.
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": ErrorOut} for status in (400, 403, 408, 413, 415, 421, 422, 503, 504, 507)},
    )
    app.state.measures = Measures()
    _add_errors(app)
    _add_page(app)
    _add_health(app)
    _add_images(app)
    add_restoring(app)
    _add_jobs(app)
    add_subjects(app)
    app.add_middleware(OwnHosts, runtime=runtime)
    app.add_middleware(  # around the other, so that what that refuses is counted too
        Guard,
        max_bytes=runtime.max_bytes,
        max_image_bytes=runtime.max_image_bytes,
        measures=app.state.measures,
        slowest_upload=runtime.slowest_upload,
        upload_grace=runtime.upload_grace,
    )
    return app


def _add_page(app: FastAPI) -> None:
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url="static_content/swagger-ui-bundle.js",
        swagger_css_url="static_content/swagger-ui.css",
        swagger_favicon_url="static_content/favicon-light-32x32.png",
    )

    @app.get("/", include_in_schema=False)
    async def routes() -> HTMLResponse:
        """The routes, to try them; the scripts are those that BentoML brings along."""
        return HTMLResponse(page.body)


async def _sweep(state: State) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        for sweep in (state.jobs.sweep, state.latents.sweep):
            try:
                await in_thread(sweep)
            except Exception:
                log.exception("could not remove what is past its time")


def _add_errors(app: FastAPI) -> None:
    async def bad_input(request: Request, error: Exception) -> JSONResponse:
        return error_response(public_message(error), getattr(error, "status", 422))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        first = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": "invalid"}
        where = ".".join(str(part) for part in first["loc"])
        return error_response(f"{where}: {first['msg']}", 422)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = str(error.detail).splitlines()[0] if error.detail else "error"
        return error_response(message, error.status_code, dict(error.headers) if error.headers else None)

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        return error_response(public_message(error), 503, {"Retry-After": str(getattr(error, "retry_after", 5))})

    async def too_long(request: Request, error: Exception) -> JSONResponse:
        return error_response("it took longer than the server allows; ask for less refinement", 503)

    async def operating_system(request: Request, error: Exception) -> JSONResponse:
        if is_disk_full(error):
            return error_response(DISK_FULL, 507, {"Retry-After": "60"})
        raise error

    async def memory(request: Request, error: Exception) -> JSONResponse:
        if is_out_of_memory(error):
            return error_response(OUT_OF_MEMORY, 507)
        raise error

    app.add_exception_handler(BadInputError, bad_input)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(BusyError, unavailable)
    app.add_exception_handler(NotReadyError, unavailable)
    app.add_exception_handler(RegistryUnavailableError, unavailable)
    app.add_exception_handler(CancelledError, too_long)
    app.add_exception_handler(OSError, operating_system)
    for full in (MemoryError, RuntimeError):
        app.add_exception_handler(full, memory)
    app.add_exception_handler(SQLAlchemyError, operating_system)  # of the jobs' database


def _add_health(app: FastAPI) -> None:
    @app.get("/livez", tags=["health"])
    async def livez() -> dict[str, bool]:
        """Whether the process answers."""
        return {"alive": True}

    @app.get("/readyz", tags=["health"], responses={503: {"model": ReadyOut}})
    async def readyz(request: Request, response: Response) -> ReadyOut:
        """Whether requests are answered, by which models, and what is not as it should be."""
        engine = state_of(request).engine
        notes = [public_message(note) for note in engine.notes()]
        try:
            served = engine.served()
        except NotReadyError as error:
            response.status_code = 503
            return ReadyOut(ready=False, notes=[public_message(error), *notes], models=[])
        return ReadyOut(ready=True, notes=notes, models=[ModelOut(**asdict(model)) for model in served])

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Prometheus' text format."""
        state = state_of(request)
        models: Sequence[ServedModel] = ()
        with suppress(NotReadyError):
            models = state.engine.served()
        measures: Measures = request.app.state.measures
        text = measures.text(models, state.turns.waiting, len(state.engine.notes()))
        text += await in_thread(lambda: state.jobs.measures.text(state.jobs.unfinished()))
        return Response(text, media_type=MEDIA_TYPE)

    @app.get("/v1/models", tags=["models"])
    async def models(request: Request, response: Response) -> ModelsOut:
        """The models that answer now; the header has those that invert and edit."""
        engine = state_of(request).engine
        response.headers[MODEL_HEADER] = engine.session().header
        return ModelsOut(models=[ModelOut(**asdict(model)) for model in engine.served()])

    @app.get("/v1/edits", tags=["models"])
    async def edits(request: Request, response: Response) -> EditsOut:
        """Names, units and bounds of the edits."""
        session = state_of(request).engine.session()
        response.headers[MODEL_HEADER] = session.header
        return EditsOut(edits=[EditOut.of(edit) for edit in session.models.edits.describe()])


def _add_images(app: FastAPI) -> None:
    @app.post(
        "/v1/invert",
        tags=["images"],
        dependencies=[Depends(admitted, scope="function")],
        openapi_extra=takes("image", "image/*", (*INVERT_OPTIONS, CODES), edits=False),
    )
    async def invert(request: Request, response: Response) -> InvertOut:
        """Invert the face of an image; the codes are kept under an id for a while."""
        state, runtime = state_of(request), state_of(request).runtime
        async with read_body(request, "image", (*INVERT_OPTIONS, CODES), edits=False) as body:
            codes = body.flag(CODES)
            data, options = await body.image(), edit_options(body.options)
        session = state.engine.session()

        def work() -> InvertOut:
            with state.turns.turn(runtime.request_seconds):
                late = deadline(runtime.request_seconds)
                image = read_image(data, runtime.max_pixels)  # one at a time: a small file may be a large picture
                inversion = invert_image(image, session.models, options, cancelled=late)
            input_sha256 = hashlib.sha256(data).hexdigest()
            name = state.latents.put(inversion, session.models.generator.sha256, input_sha256)
            expires = datetime.now(UTC) + timedelta(seconds=state.latents.keep_seconds)
            return InvertOut(
                latent=name,
                expires=expires.isoformat(timespec="seconds"),
                generator_sha256=session.models.generator.sha256,
                metrics=plain(inversion.metrics),
                warnings=[in_api_terms(line) for line in inversion.warnings],
                codes=inversion.ws[0].tolist() if codes else None,
            )

        response.headers[MODEL_HEADER] = session.header
        return await in_thread(work)

    @app.post(
        "/v1/edit",
        tags=["images"],
        dependencies=[Depends(admitted, scope="function")],
        response_class=Response,
        responses=EDITED | {406: {"model": ErrorOut}},
        openapi_extra=takes("image", "image/*", IMAGE_OPTIONS, latent=True),
    )
    async def edit(request: Request) -> Response:
        """Edit the face of an image, or of one that was inverted before; PNG or JPEG, as Accept asks.

        X-Stylereel-Warning says where the reconstruction is poor, X-Stylereel-Strengths what was applied.
        """
        state, runtime = state_of(request), state_of(request).runtime
        media_type = accepted_image(request.headers.get("accept", "*/*"))
        if media_type is None:
            return error_response("only image/png and image/jpeg are made; change the Accept header", 406)
        async with read_body(request, "image", IMAGE_OPTIONS, latents=True) as body:
            name, edits, options = body.latent, body.edits, edit_options(body.options)
            if name is not None and not body.options.keys().isdisjoint(INVERT_OPTIONS):
                raise BadInputError("face and refine are chosen at POST /v1/invert")
            data = b"" if name is not None else await body.image()
        session = state.engine.session()
        _require_edits(edits)
        session.models.edits.check(edits)

        def work() -> tuple[bytes, EditedImage]:
            with state.turns.turn(runtime.request_seconds):
                late = deadline(runtime.request_seconds)
                source = (
                    state.latents.get(name, session.models.generator.sha256)
                    if name is not None
                    else read_image(data, runtime.max_pixels)
                )
                edited = edit_image(source, edits, session.models, options, cancelled=late)
            return encode_image(edited.image, media_type), edited

        content, edited = await in_thread(work)
        headers = headers_of(session.header, edited.warnings, edited.strengths)
        return Response(content, media_type=media_type, headers=headers)


def _require_edits(edits: Sequence[EditRequest]) -> None:
    if not edits:
        raise BadInputError("no edit was asked; name at least one, e.g. edit=age=20 (GET /v1/edits lists them)")


def _add_jobs(app: FastAPI) -> None:
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorOut}}

    async def find(request: Request, work: Callable[[Jobs], Value]) -> Value:
        try:
            return await in_thread(lambda: work(state_of(request).jobs))
        except KeyError as error:
            raise HTTPException(404, "no such job; it was deleted, is past its time, or never was") from error

    @app.post(
        "/v1/jobs",
        tags=["videos"],
        status_code=202,
        responses=missing,
        openapi_extra=takes("video", "video/*", VIDEO_OPTIONS),
    )
    async def submit(request: Request, response: Response) -> JobOut:
        """Edit or restore the face in a video, or make frames between its own; the job survives the server."""
        state = state_of(request)
        session = state.engine.session()
        upload = await in_thread(state.jobs.place_for_upload)  # before a large body is taken for nothing
        try:
            async with read_body(request, "video", VIDEO_OPTIONS) as body:
                task, factor = task_of(body), factor_of(body)
                subject = body.options.pop(SUBJECT, None)
                if task is None:
                    if factor is None:
                        _require_edits(body.edits)
                    session.models.edits.check(body.edits)
                    if subject is not None:
                        session = await in_thread(lambda: state.engine.adapted(subject))
                else:
                    session = state.engine.restoring(task)
                edit_options(body.options)
                if not await body.save(upload):
                    raise BadInputError("no video came; send it as the body or as the form field 'video'", 400)
            asked_for = {
                "edits": [{"name": edit.name, "strength": edit.strength} for edit in body.edits],
                "options": body.options,
                "task": task,
                "factor": factor,
                "subject": subject,
            }

            job = await in_thread(lambda: JobOut.of(state.jobs.submit(upload, asked_for)))
        finally:
            state.jobs.drop(upload)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        response.headers[MODEL_HEADER] = session.header
        return job

    @app.get("/v1/jobs/{job_id}", tags=["videos"], responses=missing)
    async def get(request: Request, job_id: JobId) -> JobOut:
        """State, stage, progress and result of a job."""
        return JobOut.of(await find(request, lambda jobs: jobs.get(job_id)))

    @app.get(
        "/v1/jobs/{job_id}/result",
        tags=["videos"],
        response_class=RangedFile,
        responses=missing | PIECES | {409: {"model": ErrorOut}, 416: {"model": ErrorOut}},
        openapi_extra={"parameters": [RANGE]},
    )
    async def result(request: Request, job_id: JobId) -> Response:
        """The edited clip of a job that succeeded, or the range of it that was asked for."""
        job = await find(request, lambda jobs: jobs.get(job_id))
        if job.output is None or job.report is None:
            return error_response(f"the job is {job.state}{f': {job.error}' if job.error else ''}", 409)
        models = ", ".join(f"{name}/{tag}" for name, tag in job.report.get("models", {}).items())
        return RangedFile(job.output, media_type="video/mp4", headers={MODEL_HEADER: models})

    @app.post("/v1/jobs/{job_id}/cancel", tags=["videos"], responses=missing)
    async def cancel(request: Request, job_id: JobId) -> JobOut:
        """Stop a job; one that is over stays as it is."""
        return JobOut.of(await find(request, lambda jobs: jobs.cancel(job_id)))

    @app.delete("/v1/jobs/{job_id}", tags=["videos"], status_code=204, responses=missing)
    async def delete(request: Request, job_id: JobId) -> None:
        """Stop a job and remove its input, output and report."""
        await find(request, lambda jobs: jobs.delete(job_id))
