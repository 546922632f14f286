"""The served models over time: loaded once, followed through the registry, handed out as one consistent set."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.types import BadInputError, ClipInfo
from datamodules.video import read_frames
from modules.editing.directions import Direction, Edit, EditSet
from modules.editing.pose import PoseEdit
from modules.editing.random_identity import RandomIdentity
from modules.editing.stylespace import ChannelEdit, joined
from modules.encoders.restoring import Task
from modules.perception.flow import DenseFlow, FlowConfig
from services.adaptation.learn import AdaptationSettings
from services.adaptation.models import adapted_in
from services.adaptation.options import check_edit_asked, check_one_face
from services.adaptation.subjects import Forgotten, forget_adaptations
from services.code_hash import code_sha256
from services.model_names import DIRECTIONS, GENERATOR, POSE_EDITOR, STYLESPACE
from services.pipeline.canvas import canvas_info, check_canvas
from services.pipeline.edit import check_hidden
from services.pipeline.encoders import NAMES, Encoder, find_frame_encoder, load_encoder
from services.pipeline.interpolate import check_finer, finer, interpolate_video
from services.pipeline.models import Models, load_edits, load_models
from services.pipeline.options import EditOptions, PipelineConfig, VideoConfig
from services.pipeline.plan import check_clip
from services.pipeline.restore import restore_video
from services.pipeline.sidecar import described, plain
from services.pipeline.stitch import is_stitched
from services.pipeline.stream import clip_writer, edit_video
from services.progress import Progress
from services.registry.connection import RegistryConfig
from services.registry.store import CHAMPION, ModelStore
from services.serving.job import Report
from services.serving.job_folder import WORK
from services.serving.job_request import JobRequest
from services.serving.limits import in_api_terms, one_line
from services.serving.reproduction import reproduction
from services.serving.served_adaptations import ServedAdaptations
from services.serving.served_restorers import NONE_SHIPPED, SHIPPED_SERVES, ServedRestorers
from services.serving.session import NotReadyError, ServedModel, Session, shipped_model
from services.serving.slots import Slot, SlotState
from services.serving.turns import Turns
from services.settings import ROOT, Params

log = logging.getLogger("stylereel.engine")

_EDITS: Mapping[str, tuple[type, ...]] = {
    DIRECTIONS: (Direction,),
    POSE_EDITOR: (PoseEdit,),
    STYLESPACE: (ChannelEdit, RandomIdentity),
}
"""Registered models that hold edits, and the class of the shipped edits whose place a champion's take."""


EditSlot = Slot[EditSet[Edit]]
Slots = tuple[Slot[tuple[Encoder, str]], EditSlot, EditSlot, EditSlot]


class Serving(NamedTuple):
    """What was loaded, and what follows the registry."""

    base: Models
    slots: Slots
    restorers: ServedRestorers
    adaptations: ServedAdaptations


class Engine:
    """Loads in the background, so that the server can say that it is loading, and why it cannot."""

    def __init__(self, params: Params, turns: Turns, load: Callable[[Params], Models] = load_models) -> None:
        """``load`` gives the generator and what is shipped; the registry's champions take their places."""
        self._params, self._turns, self._load = params, turns, load
        self._serving: Serving | None = None
        self._why_not = "the models are loading"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._open, name="load models", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following the registry; what is loaded stays usable."""
        self._stopping.set()
        self._thread.join()
        if self._serving is not None:
            for slot in self._serving.slots:
                slot.stop()
            self._serving.restorers.stop()

    def session(self) -> Session:
        """The models that invert and edit at this moment; raises ``NotReadyError``."""
        base, slots = self._ready()[:2]
        sha256 = base.generator.sha256
        served = [shipped_model(GENERATOR, sha256, sha256)]
        versions = dict(base.versions)
        models = base
        for slot in slots:
            state = slot.state()
            if state.serving is None:
                if slot.name in base.versions:
                    served.append(shipped_model(slot.name, base.versions[slot.name], sha256))
                continue
            with slot.use() as (model, version):
                if isinstance(model, EditSet):
                    others = {n: e for n, e in models.edits.items() if not isinstance(e, _EDITS[slot.name])}
                    models = replace(models, edits=joined(others, model))
                else:
                    models = replace(models, encoder=model[0])
            versions[slot.name] = f"{version.version} {version.identity}"
            served.append(ServedModel(slot.name, version.version, CHAMPION, sha256, version.source))
        return Session(replace(models, versions=versions), tuple(served))

    def restoring(self, task: Task) -> Session:
        """The models that do a task at this moment; raises ``NotReadyError``, and ``BadInputError`` for none."""
        return self._ready().restorers.session(task)

    def adapted(self, subject: str) -> Session:
        """The models with the generator adapted to a person; raises as ``ServedAdaptations.session``."""
        return self._ready().adaptations.session(subject, self.session())

    def forget(
        self, subject: str, delete_jobs: Callable[[frozenset[str]], int], more_clips: Set[str]
    ) -> Forgotten:
        """Delete what is kept of a person, see ``forget_adaptations``; raises ``NotReadyError``."""
        runtime, adaptations = self._params.runtime, self._ready().adaptations
        adaptations.forget(subject)
        return forget_adaptations(subject, adaptations.store, runtime.state, delete_jobs, more_clips)

    def served(self) -> tuple[ServedModel, ...]:
        """All models that answer at this moment, those that restore too; raises ``NotReadyError``."""
        return self.session().served + self._ready().restorers.served()

    def notes(self) -> list[str]:
        """One line for each thing that is not as it should be, with all models that it is said of."""
        if self._serving is None:
            return []
        base, slots, restorers, _ = self._serving
        states = [(slot.state(), SHIPPED_SERVES if slot.name in base.versions else NONE_SHIPPED) for slot in slots]
        return notes_of([*states, *restorers.states()])

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise ``BadInputError`` for edits, options or a task of a job that cannot be met now."""
        asked = JobRequest.read(request)
        edits, options, subject = asked.edits, asked.options, asked.subject
        if asked.task is None:
            models = self.session().models
            models.edits.check(edits)
            if asked.factor is None:
                check_edit_asked(edits, options)
            if subject is not None and options.adapt:
                raise BadInputError(
                    "adapt learns the face of this clip, subject takes what was learned: ask for one"
                )
            if options.adapt or subject is not None:
                check_one_face(options)
            if subject is not None:
                models = self.adapted(subject).models
            is_stitched(edits, models, options)
            check_hidden(edits, models, options.adapt or models.adapted)
        else:
            self.restoring(asked.task)

    def analyse(self, source: Path, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the clip is; raises ``BadInputError`` for one that is no clip, too large or too long.

        So it does for one whose sound MP4, which every job writes, cannot hold, for one whose result would be too
        large, and for a section that holds no frame.
        """
        asked, runtime = JobRequest.read(request), self._params.runtime
        info = check_clip(source, runtime)
        read_frames(source, 1, asked.options.start, asked.options.end)
        check_canvas(asked.task, info.width, info.height, runtime.max_pixels)
        made = canvas_info(asked.task, info)
        if asked.factor is not None:
            check_finer(info, asked.factor, asked.options, runtime.max_seconds)
            made = finer(info, asked.factor)
        _check_mp4(made, self._params.section("pipeline", PipelineConfig).video)
        about: dict[str, Any] = plain(info)
        return {name: value for name, value in about.items() if name != "path"}

    def render(
        self, source: Path, target: Path, request: Mapping[str, Any], report: Report, cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Edit, restore or interpolate a clip with the models of this moment; they stay the same to its end.

        What is found on the way lies in a folder beside ``target``, so that a job that is taken up again goes on;
        where other models answer by then, it begins anew.
        """
        asked, given = JobRequest.read(request), described(source)
        options, factor = asked.options, asked.factor
        session = self._wait(cancelled)
        more: dict[str, Any] = {}

        def tell(progress: Progress) -> None:
            report(progress.stage, min(1.0, progress.done / progress.total) if progress.total else 0.0)

        made: object
        if asked.task is not None:
            session = self.restoring(asked.task)
        elif asked.subject is not None:
            session = self.adapted(asked.subject)
        models = session.models
        settings = self._params.section("adaptation", AdaptationSettings)
        work = work_for(target.parent / WORK, models, settings)
        place = work / "codes"
        if asked.task is None:
            if options.adapt:
                models = adapted_in(work / "adaptation", source, models, options, settings, tell, cancelled)
            if factor is None:
                made = edit_video(source, target, asked.edits, models, options, tell, cancelled, work=place)
            else:
                flow = DenseFlow(self._params.section("flow", FlowConfig))
                more["flow"] = plain(flow.config)
                made = interpolate_video(
                    source, target, factor, models, flow, options, tell, cancelled, work=place
                )
        else:
            most = self._params.runtime.max_pixels
            made = restore_video(source, target, models, options, most, tell, cancelled, work=place)
        found: dict[str, Any] = plain(made)
        found["warnings"] = [in_api_terms(line) for line in found["warnings"]]
        return {
            "models": {model.name: model.version for model in session.served},
            "edits": plain(asked.edits),
            "task": asked.task,
            "factor": factor,
            "options": plain(options),
            **reproduction(given, models, more),
            **found,
        }

    def _ready(self) -> Serving:
        if self._serving is None:
            raise NotReadyError(self._why_not)
        return self._serving

    def _wait(self, cancelled: Callable[[], bool]) -> Session:
        # A job that is taken up again at the server's start comes before its models.
        while True:
            try:
                return self.session()
            except NotReadyError:
                if cancelled() or self._stopping.wait(0.5):
                    raise

    def _open(self) -> None:
        while self._serving is None and not self._stopping.is_set():
            try:
                with self._turns.turn():
                    base = self._load(self._params)
                    _warm(base)
                self._serving = self._follow(base)
            except Exception as error:  # whatever hinders it, the server says so and tries again
                log.exception("the models do not load")
                self._why_not = f"the models do not load: {one_line(error)}"
                self._stopping.wait(self._params.runtime.poll_seconds)

    def _follow(self, base: Models) -> Serving:
        runtime, sha256 = self._params.runtime, base.generator.sha256
        config = self._params.section("registry", RegistryConfig)
        store = ModelStore(runtime.tracking(), runtime.state / "models", config)

        def warm(encoder: tuple[Encoder, str]) -> None:
            size = base.config.crop_size
            with torch.no_grad():
                # The first frame and one that follows it may go through different networks.
                encoder[0](torch.zeros(2, 3, size, size, device=base.device))

        find = find_frame_encoder(store.download_weights)
        encoders = Slot(
            NAMES[base.config.encoder],
            lambda folder: load_encoder(folder, base.generator, base.device, find),
            registry=store,
            poll_seconds=runtime.poll_seconds,
            warm=warm,
            generator_sha256=sha256,
        )

        def follow(name: str) -> Slot[EditSet[Edit]]:
            return Slot(
                name,
                lambda folder: load_edits(folder, sha256),
                registry=store,
                poll_seconds=runtime.poll_seconds,
                generator_sha256=sha256,
            )

        slots = encoders, follow(DIRECTIONS), follow(POSE_EDITOR), follow(STYLESPACE)
        for slot in slots:
            slot.start()
        restorers = ServedRestorers(base, store, find, runtime.poll_seconds)
        restorers.start()
        keep = self._params.section("adaptation", AdaptationSettings).served
        return Serving(base, slots, restorers, ServedAdaptations(base, store, keep))


def work_for(folder: Path, models: Models, adaptation: AdaptationSettings) -> Path:
    """A folder in ``folder`` for what these models find under these numbers; what others had found is removed."""
    # Jobs outlive a server, and what other code found does not fit what this code makes of it.
    code = code_sha256(ROOT)
    about = json.dumps([models.versions, models.numbers(), asdict(adaptation), code], sort_keys=True)
    work = folder / hashlib.sha256(about.encode()).hexdigest()[:16]
    for other in folder.iterdir() if folder.is_dir() else ():
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


def _check_mp4(info: ClipInfo, video: VideoConfig) -> None:
    target = info.path.with_name("output.mp4")
    # First without the sound, which is not to be blamed for a codec that params.yaml has wrong.
    clip_writer(target, replace(info, audio_codec=None), video, EditOptions()).check()
    try:
        clip_writer(target, info, video, EditOptions()).check()
    except BadInputError as error:
        raise BadInputError(
            f"jobs write MP4, which cannot hold the clip's sound ({info.audio_codec}); send it with AAC sound"
        ) from error


def _warm(models: Models) -> None:
    # The judges load when they are first used, which the first request should not have to wait for.
    judges, side = models.judges, models.config.crop_size
    with torch.no_grad():
        face = models.generator.synthesize(models.mean_codes(1), resolution=side)
        judges.regions(face)
        judges.identity.embed(face)
        judges.second_identity(face)
        judges.perceptual(face, face)
        if models.balancing is not None:
            judges.attributes(face)
    judges.find(np.zeros((1, side, side, 3), np.uint8))


def notes_of(states: Iterable[tuple[SlotState, str]]) -> list[str]:
    """What is wrong with slots, and what answers in their place: a line for each thing, not for each slot."""
    named: dict[str, list[str]] = {}
    for state, instead in states:
        if state.error:
            error = state.error.removeprefix(state.name).lstrip()
            named.setdefault(error if state.ready else f"{error}; {instead}", []).append(state.name)
    return [f"{', '.join(names)}: {said}" for said, names in named.items()]
