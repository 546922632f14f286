"""What goes over HTTP: the bodies that are taken and given, and the names that OpenAPI shows for them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from modules.editing.directions import EditDescription, EditRequest
from services.serving.job import Job, State

MAX_EDITS = 32
"""Edits in one request. No setting: clients read it in OpenAPI, and it leaves room in a form's 64 fields."""


class Strict(BaseModel):
    """Bodies with unknown keys are refused: a misspelt option would otherwise be ignored in silence."""

    model_config = ConfigDict(extra="forbid")


class EditIn(Strict):
    """One edit that is asked for."""

    name: str = Field(max_length=64, description="Name of the edit, as GET /v1/edits lists it.")
    strength: float = Field(allow_inf_nan=False, description="How much, in the edit's own unit.")

    def request(self) -> EditRequest:
        """As the pipeline takes it."""
        return EditRequest(self.name, self.strength)


class EditBody(Strict):
    """Edits of an image that was inverted before."""

    latent: str = Field(description="Id that POST /v1/invert gave.")
    edits: list[EditIn] = Field(max_length=MAX_EDITS)


class EditOut(BaseModel):
    """What may be asked of one edit."""

    name: str
    unit: str = Field(description="What one step of the strength means.")
    lower: float = Field(description="Smallest strength, in the unit.")
    upper: float = Field(description="Largest strength, in the unit.")

    @classmethod
    def of(cls, edit: EditDescription) -> EditOut:
        """From the pipeline's description."""
        return cls(name=edit.name, unit=edit.unit, lower=edit.lower, upper=edit.upper)


class EditsOut(BaseModel):
    """All edits of the models that answer now."""

    edits: list[EditOut]


class ModelOut(BaseModel):
    """One model that answers now."""

    name: str
    version: str = Field(description="Of the registry; of a shipped model, the start of its sha256.")
    alias: str | None = Field(description="The registry's alias that it was loaded by.")
    generator_sha256: str = Field(description="Of the generator it belongs to.")
    source: str = Field(description="registry, cache (the registry is down) or shipped.")


class ModelsOut(BaseModel):
    """All models that answer now."""

    models: list[ModelOut]


class ReadyOut(BaseModel):
    """Whether requests are answered, and what is not as it should be."""

    ready: bool
    notes: list[str] = Field(description="One line each, e.g. that the registry is down and from what is served.")
    models: list[ModelOut]


class InvertOut(BaseModel):
    """An inverted image."""

    latent: str = Field(description="Id of the codes, for POST /v1/edit.")
    expires: str = Field(description="When the id stops answering; UTC, ISO 8601.")
    generator_sha256: str = Field(description="Of the generator that the codes belong to.")
    metrics: dict[str, float | None] = Field(
        description="How well the codes show the face; null where none is seen."
    )
    warnings: list[str] = Field(description="One line each, where the reconstruction is poor.")
    codes: list[list[float]] | None = Field(description="(num_ws, w_dim), where ?codes=true asked for them.")


class ResultOut(BaseModel):
    """What a finished job made."""

    video: str = Field(description="Where the edited clip is.")
    report: dict[str, Any] = Field(
        description="What the pipeline says of the clip; also what makes it again: sha256 and bytes of the input, "
        "hashes of the models, edits, options and params."
    )


class JobOut(BaseModel):
    """A job."""

    id: str
    state: State
    stage: str = Field(description="queued, analyse, a stage of the pipeline, or finish.")
    progress: float = Field(description="Of the stage, in [0, 1].", ge=0, le=1)
    error: str | None = Field(description="One line, where the job failed.")
    status: int | None = Field(description="The HTTP status that the error stands for, where the job failed.")
    result: ResultOut | None = Field(description="Where the job succeeded.")

    @classmethod
    def of(cls, job: Job) -> JobOut:
        """From the job's own record."""
        result = None
        if job.report is not None:
            result = ResultOut(video=f"/v1/jobs/{job.id}/result", report=job.report)
        return cls(
            id=job.id,
            state=job.state,
            stage=job.stage,
            progress=job.progress,
            error=job.error,
            status=job.status,
            result=result,
        )


class ForgottenOut(BaseModel):
    """What was deleted of a person."""

    versions: int = Field(description="Registered versions, with their files.")
    adaptations: int = Field(description="Folders that were learned here.")
    jobs: int = Field(description="Jobs that asked for the person, or whose clip the person was learned from.")
    latents: int = Field(description="Latent ids of files that were named with clip.")


class ErrorOut(BaseModel):
    """What is answered with every status from 400 on."""

    error: str = Field(description="One line that says what to do.")
