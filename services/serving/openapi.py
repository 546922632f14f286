"""OpenAPI's description of what ``read_body`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.encoders.restoring import TASKS
from services.pipeline.interpolate import FEWEST, MOST
from services.serving.schemas import MAX_EDITS, EditIn

CODES = "codes"
TASK = "task"
SUBJECT = "subject"
STRENGTHS_HEADER = "X-Stylereel-Strengths"
FACTOR = "factor"
FLAGS = (CODES, "preview", "balance", "adapt", "keep_lips", "stitch")
FACTOR_RANGE: dict[str, Any] = {"type": "integer", "minimum": FEWEST, "maximum": MOST}
OPTIONS = {
    "face": "largest, or a number counted from the left from 0; what is edited or restored may be all.",
    "refine": "Steps of optimisation per frame, a whole number from 0.",
    "paste": "auto, difference, mixed or replace.",
    "region": "face, head, or auto: the head for pose and hair, a part of the face for mouth or eyes.",
    "balance": "false to apply edits as they are, without balancing them on the face at hand.",
    "seed": "A whole number from 0: which person random_identity gives, the same on every frame.",
    "start": "Seconds into the clip at which to begin, e.g. 2 or 2.5s.",
    "end": "Seconds into the clip at which to end.",
    "preview": "true for a fast look: fewer frames, a small synthesis, no refinement.",
    "adapt": "true to fine-tune the generator on the clip first: minutes, but much closer to the person.",
    "keep_lips": "true to let the lips go on speaking under the edit: seconds per frame.",
    "stitch": "true to tune the generator until a face that replaces the frame's meets the frames around it.",
    SUBJECT: "Whose registered adaptation the generator is to have, e.g. anna.",
    CODES: "true for the codes themselves in the answer.",
    TASK: f"{' or '.join(TASKS)}, in the place of edits; face, start and end go with it.",
    FACTOR: "Times as many frames, in the place of edits; face, refine, start, end, adapt and subject go with it.",
}
RANGE: dict[str, Any] = {
    "name": "Range",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "Bytes of the clip to answer, e.g. bytes=0-1023.",
}
PIECES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"video/mp4": {}}},
    206: {
        "description": "The range that was asked for, several as multipart/byteranges.",
        "content": {"video/mp4": {}, "multipart/byteranges": {}},
    },
}
"""The answers of a clip."""
EDITED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"image/png": {}, "image/jpeg": {}},
        "headers": {
            STRENGTHS_HEADER: {
                "schema": {"type": "string"},
                "description": "What the face was edited by, balanced on it: NAME=STRENGTH, with a comma between. "
                "With face=all of each face, from the left, with a semicolon between; ... at the end of many.",
            }
        },
    }
}
"""The answer of an edited image."""
EDIT = "NAME=STRENGTH, any number of times, e.g. age=20."
EDITS = 'JSON: [{"name": "age", "strength": 20}, ...].'
EDIT_BODY: dict[str, Any] = {
    "type": "object",
    "required": ["latent", "edits"],
    "additionalProperties": False,
    "properties": {
        "latent": {"type": "string"},
        "edits": {"type": "array", "maxItems": MAX_EDITS, "items": EditIn.model_json_schema()},
    },
}


def takes(file: str, raw: str, options: Sequence[str], edits: bool = True, latent: bool = False) -> dict[str, Any]:
    """OpenAPI's description of what ``read_body`` reads."""
    text, texts = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    kinds = {FACTOR: FACTOR_RANGE} | {name: {"type": "boolean"} for name in FLAGS}
    asked = {name: kinds.get(name, text) | {"description": OPTIONS[name]} for name in options}
    query: dict[str, Any] = asked | ({"edit": texts | {"description": EDIT}} if edits else {})
    form = {file: {"type": "string", "format": "binary"}} | query
    if edits:
        form["edits"] = text | {"description": EDITS}
    if latent:
        form["latent"] = text | {"description": f"Instead of the {file}: an id of POST /v1/invert."}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": {"type": "object", "properties": form, "additionalProperties": False}},
        raw: {"schema": {"type": "string", "format": "binary"}},
    }
    if latent:
        content["application/json"] = {"schema": EDIT_BODY}
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema["description"]}
        for name, schema in query.items()
    ]
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}
