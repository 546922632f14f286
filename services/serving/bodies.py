"""Reading requests: images and videos come raw or in a form, edits in the query, a form field or JSON."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from datamodules.types import BadInputError
from modules.editing.directions import EditRequest, parse_edit
from services.serving.schemas import MAX_EDITS, EditBody, EditIn

EDITS = TypeAdapter(list[EditIn])
FLAG = TypeAdapter(bool)
CHUNK = 1 << 20
WIDEST_JPEG = 65_500


@dataclass
class Body:
    """A request's parts."""

    upload: UploadFile | None = None
    """The file of a form."""
    raw: Request | None = None
    """A request whose body is the file itself."""
    edits: list[EditRequest] = field(default_factory=list)
    latent: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    """Query and form fields other than the file and the edits; the form wins."""

    def flag(self, name: str) -> bool:
        """Take a yes or no out of the options, False where it is not there; raises ``BadInputError``."""
        text = self.options.pop(name, "false")
        try:
            return read_flag(text)
        except ValueError as error:
            raise BadInputError(f"cannot use {name}={text[:64]!r}: {error}") from error

    async def image(self) -> bytes:
        """The whole file; raises ``BadInputError`` where there is none."""
        data = b""
        if self.upload is not None:
            data = await self.upload.read()
        elif self.raw is not None:
            data = await self.raw.body()
        if not data:
            raise BadInputError("no image came; send it as the body or as the form field 'image'", 400)
        return data

    async def save(self, path: Path) -> bool:
        """Write the file to ``path`` piece by piece; False where nothing came."""
        async with await anyio.open_file(path, "wb") as target:
            if self.upload is not None:
                while piece := await self.upload.read(CHUNK):
                    await target.write(piece)
            elif self.raw is not None:
                async for piece in self.raw.stream():
                    await target.write(piece)
            return await target.tell() > 0


@asynccontextmanager
async def read_body(
    request: Request, file: str, options: tuple[str, ...], latents: bool = False, edits: bool = True
) -> AsyncIterator[Body]:
    """Sort a request into its parts; temporary files are gone after the ``with`` block.

    ``file`` is the name of the form field that holds the image or video; ``options`` are the other names that
    are known; ``latents`` says whether JSON that names one may stand in the file's place, ``edits`` whether edits
    are taken. What a body is called only decides where its bytes say nothing else: an image that is called JSON
    is an image. Raises ``BadInputError`` for what cannot be read, and for names that are not known: an option
    with a slip in it would otherwise be one that was never asked for.
    """
    check_query(request, (*options, *(("edit",) if edits else ())))
    body = Body(options={name: value for name, value in request.query_params.items() if name in options})
    body.edits = [parse_edit(text) for text in request.query_params.getlist("edit")]
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=64) as form:
            others = (*(("edit", "edits") if edits else ()), *(("latent",) if latents else ()))
            _sort_form(body, form, file, options, others)
            yield _checked(body)
    elif kind == "application/json" and latents and (await request.body()).lstrip()[:1] in (b"", b"{", b"["):
        given = parse_json(TypeAdapter(EditBody), await request.body())
        body.latent = given.latent
        body.edits += [edit.request() for edit in given.edits]
        yield _checked(body)
    else:
        body.raw = request
        yield _checked(body)


def check_query(request: Request, known: tuple[str, ...]) -> None:
    """Raise ``BadInputError`` for the first name in the query that is not ``known``."""
    for name in request.query_params:
        if name not in known:
            raise BadInputError(f"the query option {name[:64]!r} is not known; there are {', '.join(known)}")


def read_flag(text: str) -> bool:
    """A yes or no as pydantic reads it: true, yes, on, 1 and their opposites; raises ``ValueError``."""
    try:
        return FLAG.validate_python(text.strip())
    except ValidationError as error:
        raise ValueError("it must be true or false") from error


def parse_json(kind: TypeAdapter[Any], data: bytes | str) -> Any:
    """Read JSON; raises ``BadInputError``, 400 for what is no JSON and 422 for what does not fit."""
    try:
        return kind.validate_json(data)
    except ValidationError as error:
        raise BadInputError(*_one_line(error)) from error
    except UnicodeError as error:
        raise BadInputError("the JSON is not UTF-8", 400) from error


def encode_image(image: NDArray[np.uint8], media_type: str) -> bytes:
    """PNG, or JPEG where ``media_type`` is ``image/jpeg``; raises ``BadInputError`` for what no JPEG holds."""
    target = io.BytesIO()
    if media_type == "image/jpeg" and max(image.shape[:2]) > WIDEST_JPEG:
        raise BadInputError(f"a JPEG holds {WIDEST_JPEG} pixels a side, this has more; accept image/png")
    if media_type == "image/jpeg":
        Image.fromarray(image).save(target, "JPEG", quality=95, subsampling=0)
    else:
        Image.fromarray(image).save(target, "PNG", compress_level=3)
    return target.getvalue()


def accepted_image(accept: str) -> str | None:
    """``image/png`` or ``image/jpeg``, as an ``Accept`` header weighs them, PNG of equals; None for neither."""
    weights = {"image/png": 0.0, "image/jpeg": 0.0}
    ranks = dict.fromkeys(weights, -1)
    for part in (accept or "*/*").split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        for name in weights:
            rank = ("*/*", "image/*", name).index(kind) if kind in ("*/*", "image/*", name) else -1
            if rank > ranks[name]:
                ranks[name], weights[name] = rank, _quality(quality)
    best = max(weights, key=lambda name: weights[name])
    return best if weights[best] > 0 else None


def _quality(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


def _sort_form(body: Body, form: FormData, file: str, options: tuple[str, ...], others: tuple[str, ...]) -> None:
    for name, value in form.multi_items():
        if name == file:
            if not isinstance(value, UploadFile):
                raise BadInputError(f"the form field {file!r} must be a file, with a file name", 400)
            body.upload = value
        elif isinstance(value, UploadFile) or name not in (*options, *others):
            known = ", ".join((file, *options, *others))
            raise BadInputError(f"the form field {name[:64]!r} is not known; there are {known}", 422)
        elif name == "edits":
            body.edits += [edit.request() for edit in parse_json(EDITS, value)]
        elif name == "edit":
            body.edits.append(parse_edit(value))
        elif name == "latent":
            body.latent = value
        else:
            body.options[name] = value


def _checked(body: Body) -> Body:
    # A page's form sends a file field that was left alone as an empty file.
    if body.latent is not None and body.upload is not None and body.upload.size:
        raise BadInputError("an image and a latent came; send one of them")
    if len(body.edits) > MAX_EDITS:
        raise BadInputError(f"{len(body.edits)} edits were asked, at most {MAX_EDITS} are taken")
    return body


def _one_line(error: ValidationError) -> tuple[str, int]:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return f"this is no JSON: {first['msg']}", 400
    return f"{where}: {first['msg']}" if where else first["msg"], 422
