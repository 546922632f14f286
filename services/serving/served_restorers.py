"""What a server restores with: the registry's champions, the shipped ones in their places, or none at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from datamodules.types import BadInputError
from modules.encoders.restoring import STAGES, TASKS, RestoringEncoder, Task
from services.model_names import GENERATOR, RESTORERS
from services.pipeline.encoders import FindFrameEncoder
from services.pipeline.models import Models
from services.pipeline.restorers import load_restorer, restoring, shipped_restorer
from services.registry.store import CHAMPION, ModelStore
from services.serving.limits import one_line
from services.serving.session import ServedModel, Session, shipped_model
from services.serving.slots import Slot, SlotState

log = logging.getLogger("stylereel.engine")

NONE_SHIPPED, SHIPPED_SERVES = "there is none shipped either", "the shipped one serves"
"""What serves where a champion does not."""
Loaded = tuple[RestoringEncoder, dict[str, str]]


class ServedRestorers:
    """One slot for each task; that a task has no model hinders nothing else."""

    def __init__(self, base: Models, store: ModelStore, find: FindFrameEncoder, poll_seconds: float) -> None:
        """``base`` gives the generator and the judges; ``find`` says where a FrEN is."""
        self._base = base
        self._shipped: dict[Task, Loaded] = {}
        self._damaged: dict[Task, str] = {}
        self._load = {task: self._loader(task, find) for task in TASKS}
        self._slots: dict[Task, Slot[Loaded]] = {
            task: Slot(
                RESTORERS[task],
                self._load[task],
                registry=store,
                poll_seconds=poll_seconds,
                warm=self._warm,
                generator_sha256=base.generator.sha256,
            )
            for task in TASKS
        }

    def start(self) -> None:
        """Load what there is and follow the registry; never raises, ``states`` says how it went."""
        for task, slot in self._slots.items():
            slot.start()
            if slot.state().ready:
                continue
            try:
                folder = shipped_restorer(task, self._base.generator.sha256)
                if folder is not None:
                    self._shipped[task] = self._load[task](folder)
            except Exception as error:  # whatever hinders it, edits are served without
                log.exception("%s: the shipped one does not load", slot.name)
                self._damaged[task] = f"the shipped one does not load: {one_line(error)}"

    def stop(self) -> None:
        """Stop following the registry; what is loaded stays usable."""
        for slot in self._slots.values():
            slot.stop()

    def session(self, task: Task) -> Session:
        """What does a task at this moment; raises ``BadInputError`` (404) where nothing does."""
        base, name, found = self._base, RESTORERS[task], self._found(task)
        if found is None:
            raise BadInputError(
                f"there is no model to {task} with: 'stylereel train {STAGES[task]}' makes one, "
                f"'stylereel register' and 'stylereel promote {name}' have it served",
                404,
            )
        (encoder, versions), version, model = found
        versions = {GENERATOR: base.generator.sha256, **versions, name: version}
        sha256 = base.generator.sha256
        served = (shipped_model(GENERATOR, sha256, sha256), model)
        return Session(restoring(base, task, encoder, versions), served)

    def served(self) -> tuple[ServedModel, ...]:
        """What answers now, of both tasks."""
        return tuple(found[2] for task in TASKS if (found := self._found(task)) is not None)

    def states(self) -> list[tuple[SlotState, str]]:
        """How the slots stand, with what serves where the champion does not: one line."""
        instead = {task: self._damaged.get(task, NONE_SHIPPED) for task in TASKS}
        instead |= dict.fromkeys(self._shipped, SHIPPED_SERVES)
        return [(slot.state(), instead[task]) for task, slot in self._slots.items()]

    def _found(self, task: Task) -> tuple[Loaded, str, ServedModel] | None:
        slot, name, sha256 = self._slots[task], RESTORERS[task], self._base.generator.sha256
        if slot.state().ready:
            with slot.use() as (loaded, v):
                return (
                    loaded,
                    f"{v.version} {v.identity}",
                    ServedModel(name, v.version, CHAMPION, sha256, v.source),
                )
        if task not in self._shipped:
            return None
        loaded = self._shipped[task]
        return loaded, loaded[1][name], shipped_model(name, loaded[1][name], sha256)

    def _loader(self, task: Task, find: FindFrameEncoder) -> Callable[[Path], Loaded]:
        base = self._base
        return lambda folder: load_restorer(folder, task, base.generator, base.device, find)

    def _warm(self, loaded: Loaded) -> None:
        size = self._base.config.crop_size
        with torch.no_grad():
            loaded[0](torch.zeros(1, 3, size, size, device=self._base.device))
