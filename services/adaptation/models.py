"""Adaptations as files: made from a clip, kept for the next edit of it, put into the models that edit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.disk import require_writable, write_whole
from datamodules.types import BadInputError
from datamodules.video import probe
from modules.generators.adaptation import KIND, Adaptation, load_adaptation
from modules.model_folder import load_model, require_replaceable
from services.adaptation.alone import alone_in
from services.adaptation.learn import LOOKED_AT, AdaptationReport, AdaptationSettings, adapt_clip, asked_of
from services.adaptation.subjects import ADAPTATIONS
from services.code_hash import code_sha256
from services.consent import Subject, require_consent
from services.pipeline.models import Chosen, Models, load_models, with_adaptation
from services.pipeline.options import EditOptions
from services.pipeline.sidecar import file_sha256
from services.progress import Cancelled, Report, never, silent
from services.registry.gate import Evaluation, utc_now
from services.settings import ROOT, Params

_UNFINISHED = ".unfinished"
"""Ends the names of folders in which an adaptation is under way."""


def adapt_file(
    source: Path,
    folder: Path,
    params: Params,
    options: EditOptions,
    chosen: Chosen,
    report: Report = silent,
    start_from: Path | None = None,
    subject: Subject | None = None,
) -> AdaptationReport:
    """``adapt_clip`` of a file for the shell; what a stopped call had done lies in ``runtime.state``.

    A second call for this clip waits for the first one, and takes the folder that it made if it asks the same.
    """
    if not source.is_file():
        raise BadInputError(f"{source} {'is not a file' if source.exists() else 'does not exist'}; check the name")
    require_replaceable(folder, KIND)
    require_writable(folder)  # said before minutes of learning
    if subject is not None:
        require_consent(subject, subject.name or folder.name)  # what nobody may use later is not learned
    probe(source)
    settings = params.section("adaptation", AdaptationSettings)
    models = load_models(params, *chosen)
    earlier = load_adaptation(start_from, models.generator.sha256) if start_from else None
    asked = asked_of(source, models, options, settings, earlier, subject)  # refuses before a wait of minutes
    work = _work(source, models, options, settings, params, earlier)
    with alone_in(work, report, never) as waited:
        if waited and (made := _report_of(folder, asked)) is not None:
            return made
        done = adapt_clip(
            source, folder, models, options, settings, work, report, start_from=earlier, subject=subject
        )
        write_whole(evaluation_path(folder), evaluation_of(folder).to_json())
    return done


def _report_of(folder: Path, asked: Mapping[str, Any]) -> AdaptationReport | None:
    """What was learned, where a folder says that it was learned as ``asked``; None where it is not so."""
    try:
        config = load_model(folder, KIND).config
        if {name: config[name] for name in asked} != asked:
            return None
        report = config["report"]
        return AdaptationReport(**{**report, "warnings": tuple(report["warnings"])})
    except (BadInputError, KeyError, TypeError):
        return None


def evaluation_path(folder: Path) -> Path:
    """``anna.evaluation.json`` beside ``anna``."""
    return folder.with_name(f"{folder.name}.evaluation.json")


def adapted_models(
    source: Path,
    models: Models,
    options: EditOptions,
    params: Params,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> Models:
    """The models with a generator that learned the face of this clip, now or in an earlier call for the same one.

    The last ``adaptation.keep`` adaptations stay in ``runtime.state``.
    """
    settings = params.section("adaptation", AdaptationSettings)
    work = _work(source, models, options, settings, params, None)
    folder = work.with_name(work.name.removesuffix(_UNFINISHED))
    adapted_to_clip = adapted_in(folder, source, models, options, settings, report, cancelled)
    with suppress(FileNotFoundError):  # another call may have made room for its own
        os.utime(folder)
    _forget(folder.parent, settings.keep)
    return adapted_to_clip


def adapted_in(
    folder: Path,
    source: Path,
    models: Models,
    options: EditOptions,
    settings: AdaptationSettings,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> Models:
    """The models adapted as ``folder`` says, where it is there, or else as it says once the clip was learned.

    Where another call learns it just now, that one is waited for.
    """
    work = folder.with_name(folder.name + _UNFINISHED)
    with alone_in(work, report, cancelled):
        if not folder.is_dir():
            adapt_clip(source, folder, models, options, settings, work, report, cancelled)
        return with_adaptation(models, folder)


def _work(
    source: Path,
    models: Models,
    options: EditOptions,
    settings: AdaptationSettings,
    params: Params,
    earlier: Adaptation | None,
) -> Path:
    """A folder of its own for each clip, face, section, generator, encoder, set of numbers, and code.

    The same goes on. Edits are no part of it: a face that was learned is edited in any way.
    """
    numbers = models.numbers()
    del numbers["balancing"]
    about = {
        "source": file_sha256(source),
        "face": [getattr(options, name) for name in LOOKED_AT],
        "models": models.without_edits(),
        "numbers": numbers,
        "settings": dataclasses.asdict(dataclasses.replace(settings, keep=0, served=0)),
        "from": earlier.sha256 if earlier else None,
        "code": code_sha256(ROOT),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return params.runtime.state / ADAPTATIONS / (key + _UNFINISHED)


def _forget(folder: Path, keep: int) -> None:
    """Remove all adaptations but the ``keep`` that were last used, and what was left unfinished for a week."""
    entries = [(path.stat().st_mtime, path) for path in folder.iterdir() if path.is_dir()]
    done = sorted((entry for entry in entries if entry[1].suffix != _UNFINISHED), reverse=True)
    old = time.time() - 7 * 86_400
    left = [path for changed, path in entries if path.suffix == _UNFINISHED and changed < old]
    for path in [*(path for _, path in done[keep:]), *left]:
        shutil.rmtree(path, ignore_errors=True)


_HIGHER = {"psnr", "psnr_gain", "identity"}
"""Metrics of an adaptation that are better where they are higher."""


def evaluation_of(folder: Path) -> Evaluation:
    """What the gate reads of an adaptation: measured on the clip that it learned from, when it had."""
    model = load_model(folder, KIND)
    report, settings = model.config["report"], model.config["settings"]
    after = {name: value for name, value in report["after"].items() if value is not None}
    metrics = {**after, "psnr_gain": after["psnr"] - report["before"]["psnr"]}
    return Evaluation(
        model_sha256=model.weights_sha256,
        config_sha256=model.config_sha256,
        generator_sha256=str(model.config["generator_sha256"]),
        data_hash=str(model.config["source"]["sha256"]),
        metrics=metrics,
        higher_is_better={name: name in _HIGHER for name in metrics},
        frames=min(int(settings["measured"]), int(report["frames"])),
        clips=1,
        created=utc_now(),
    )
