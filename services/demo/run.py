"""The demo's steps in order: registry, inversion, clips, server, measures, sheet."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.images import write_image
from datamodules.types import ClipInfo
from datamodules.video import probe
from modules.assets import MANIFEST, asset_path, fetch, manifest
from modules.editing.directions import EditRequest
from services.attributes import AttributeJudge, load_attribute_judge
from services.balancing import balancing_of
from services.code_hash import code_sha256
from services.console import bars
from services.demo.clips import edit_clip, invert_clip
from services.demo.compare import compare_served
from services.demo.ledger import Done, Ledger
from services.demo.lifecycle import EVALUATIONS, promote_shipped
from services.demo.measure import (
    NEARNESS,
    Places,
    frames_at,
    measure_edit,
    measure_reconstruction,
    places,
    reconstructed,
)
from services.demo.options import DemoConfig
from services.demo.report import finite, markdown
from services.demo.sheet import draw_demo
from services.direction_settings import DirectionSettings
from services.model_names import DIRECTIONS
from services.pipeline.encoders import NAMES
from services.pipeline.encoders import SHIPPED as ENCODERS
from services.pipeline.models import SECTIONS, SHIPPED_DIRECTIONS, Models, load_models
from services.pipeline.sidecar import file_sha256, plain
from services.pipeline.unedited import UneditedFaces
from services.places import METRICS_FOLDER
from services.progress import Meter, Report, never
from services.registry.connection import RegistryConfig
from services.registry.gate import Gates
from services.registry.promote import ModelRegistry
from services.settings import PREFIX, ROOT, Params, load_params

OUT = ROOT / "demo"
STATE = ROOT / "var" / "demo"
"""A registry, a server and a cache of the demo's own, so that it touches no one else's champion."""
SHIPPED = {**{NAMES[kind]: folder for kind, folder in ENCODERS.items()}, DIRECTIONS: SHIPPED_DIRECTIONS}
Say = Callable[[str], None]


def demo_params(overrides: list[str], environment: Mapping[str, str], state: Path = STATE) -> Params:
    """``params.yaml`` with the demo's state and its encoder."""
    config = load_params(overrides=overrides, environment=environment).section("demo", DemoConfig)
    given = {**environment, f"{PREFIX}STATE": str(state)}
    given |= {f"{PREFIX}TRACKING_URI": "", f"{PREFIX}PORT": "0"}
    ours = [f"pipeline.encoder={config.encoder}"]
    return load_params(overrides=[*ours, *overrides], environment=given)


class Demo:
    """One run; nothing is loaded before a step needs it."""

    def __init__(self, params: Params, say: Say, quiet: bool = False, out: Path = OUT) -> None:
        """Fetch the assets and look at the clip."""
        self.params, self.say, self.quiet, self.out = params, say, quiet, out
        self.config = params.section("demo", DemoConfig)
        self.state = params.runtime.state
        out.mkdir(parents=True, exist_ok=True)
        self.work = self.state / "steps"
        self.ledger = Ledger(self.work, say)
        with bars(quiet) as report:
            meter = Meter("fetch", len(manifest()), report, never)
            for name in manifest():
                fetch(name)
                meter.advance()
        self.clip = asset_path(self.config.asset, self.config.file)
        self.info: ClipInfo = probe(self.clip)
        self.codes = self.work / "codes.safetensors"
        self.done: dict[str, Done] = {}

    def run(self) -> bool:
        """Do all steps; False where the server's answers differ from the shell's."""
        self._registry()
        clips = self._clips()
        served = self._served()
        numbers = self._numbers(clips)
        self._sheet(clips, numbers)
        self._report(numbers)
        return bool(served["agrees"])

    @cached_property
    def models(self) -> Models:
        """The champions, or what is shipped where the gate let nothing through."""
        models = load_models(self.params, *self._folders())
        return dataclasses.replace(models, unedited=UneditedFaces(self.config.remembered_bytes))

    @cached_property
    def judge(self) -> AttributeJudge:
        """What measures how far an edit went."""
        least = self.params.section("directions", DirectionSettings).least_score
        return load_attribute_judge(least, self.models.device, self.models.judges.mesh)

    @cached_property
    def standing(self) -> dict[str, dict[str, Any]]:
        """How each shipped model stands after the gate."""
        return {row["name"]: row for row in self.done["registry"].result["models"]}

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What every clip depends on."""
        runtime = self.params.runtime
        return {
            "code": code_sha256(ROOT),
            "clip": file_sha256(self.clip),
            "pretrained": file_sha256(MANIFEST),
            "models": {name: row["champion_identity"] or row["shipped"] for name, row in self.standing.items()},
            "params": {
                **{name: self.params.raw[name] for name in SECTIONS},
                "balancing": plain(balancing_of(self.params)),
            },
            "steps": self.config.steps,
            "precision": "bfloat16" if runtime.bfloat16() else "float32",
            "device": runtime.torch_device(),
        }

    def _registry(self) -> None:
        gates, config = self.params.section("gate", Gates), self.params.section("registry", RegistryConfig)
        shipped = {name: folder for name, folder in SHIPPED.items() if folder.is_dir()}

        def make() -> dict[str, Any]:
            registry = ModelRegistry(self.params.runtime.tracking(), self.state / "models", config)
            standings = [
                promote_shipped(registry, gates, name, folder, METRICS_FOLDER) for name, folder in shipped.items()
            ]
            for standing in standings:
                self.say(f"  {standing.name}: {standing.why}")
            return {"models": [dataclasses.asdict(standing) for standing in standings]}

        def stands(result: Mapping[str, Any]) -> bool:
            folders = [Path(row["folder"]) for row in result["models"]]
            return (self.state / "mlflow.db").is_file() and all(folder.is_dir() for folder in folders)

        files = [file for folder in shipped.values() for file in sorted(folder.iterdir())]
        files += sorted(METRICS_FOLDER.glob(EVALUATIONS))
        hashes = {str(file.relative_to(ROOT)): file_sha256(file) for file in files}
        inputs = {"files": hashes, "gate": gates, "code": code_sha256(ROOT)}
        self.done["registry"] = self.ledger.step("registry", inputs, [], make, stands)

    def _clips(self) -> dict[str, Path]:
        """The step ``invert`` and one step per clip; returns the clips by their label."""
        steps, config = self.config.steps, self.config

        def invert() -> dict[str, Any]:
            with self._bar("invert") as report:
                return dataclasses.asdict(invert_clip(self.clip, self.codes, self.models, steps, report))

        self._step("invert", self.inputs, [self.codes], invert)
        made = {}
        wanted: dict[str, tuple[EditRequest, ...]] = {"reconstruction": ()}
        known = self.standing.get(DIRECTIONS)
        wanted |= {stem: (request,) for stem, request in config.requests().items()} if known else {}
        for stem, requests in wanted.items():
            target = self.out / f"{stem}.mp4"

            def edit(target: Path = target, requests: tuple[EditRequest, ...] = requests) -> dict[str, Any]:
                with self._bar(target.stem) as report:
                    done = edit_clip(self.clip, target, self.codes, requests, self.models, steps, report)
                return {"seconds": done.seconds, "warnings": done.warnings}

            inputs = self.inputs | {"codes": file_sha256(self.codes), "edits": requests}
            self._step(stem, inputs, [target, target.with_name(target.name + ".json")], edit)
            made[stem] = target
        return made

    def _served(self) -> dict[str, Any]:
        config = self.config
        request = next(iter(config.requests().values()))

        def make() -> dict[str, Any]:
            frame = self._places().numbers[len(self._places().numbers) // 2]
            with self._bar("shell") as report:
                encoder, directions, _ = self._folders()
                return compare_served(
                    self.clip, self.work, request, frame, config, self.params, (encoder, directions),
                    self.state / "serve.log", report,
                )  # fmt: skip

        inputs = self.inputs | {"demo": dataclasses.replace(config, remembered_bytes=0)}
        return self._step("serve", inputs, [], make).result

    def _numbers(self, clips: Mapping[str, Path]) -> dict[str, Any]:
        units = self.params.section("directions", DirectionSettings).edits
        requests = {stem: request for stem, request in self.config.requests().items() if stem in clips}

        def make() -> dict[str, Any]:
            at = self._places()
            before = reconstructed(self.codes, at, self.models)
            rows = measure_reconstruction(self.clip, before, at, self.models)
            edits = {}
            for stem, request in requests.items():
                unit = units[request.name].per_unit if request.name in units else 1.0
                measured = measure_edit(
                    self.clip, clips[stem], self.codes, before, request, unit, at, self.models, self.judge
                )
                rows[stem] = measured
                spoken = self.models.edits[request.name].unit.split(" (")[0]
                edits[stem] = measured | {"asked": request.strength, "unit": spoken}
            return finite({"rows": rows, "edits": edits, "measured": len(at.numbers)})  # type: ignore[no-any-return]

        made = {stem: file_sha256(path) for stem, path in clips.items()}
        inputs = self.inputs | {"clips": made, "count": self.config.measured_frames, "metrics": NEARNESS}
        return self._step("measure", inputs, [], make).result

    def _sheet(self, clips: Mapping[str, Path], numbers: Mapping[str, Any]) -> None:
        target = self.out / "sheet.png"

        def make() -> dict[str, Any]:
            at = places(self.done["invert"].result, self.config.columns)
            rows = {"input": ("", frames_at(self.clip, at.numbers))}
            for stem, path in clips.items():
                rows[stem] = (_note(numbers, stem), frames_at(path, at.numbers))
            times = [number / float(self.info.rate) for number in at.numbers]
            write_image(target, draw_demo(rows, at.matrices, at.size, times))
            return {}

        made = {stem: file_sha256(path) for stem, path in clips.items()}
        self._step("sheet", {"clips": made, "numbers": numbers, "columns": self.config.columns}, [target], make)

    def _report(self, numbers: Mapping[str, Any]) -> None:
        info, runtime = self.info, self.params.runtime
        content = {
            "clip": {
                "name": self.clip.name, "frames": info.frames, "width": info.width, "height": info.height,
                "rate": str(info.rate), "audio": info.audio_codec, "measured": numbers["measured"],
                "synthesis_size": self.done["invert"].result["faces"][0]["synthesis_size"],
            },
            "rows": numbers["rows"],
            "edits": numbers["edits"],
            "registry": [
                {key: value for key, value in row.items() if key != "folder"} for row in self.standing.values()
            ],
            "served": self.done["serve"].result,
            "steps": {
                name: {"seconds": step.seconds, "redone": step.redone} for name, step in self.done.items()
            },
            "precision": "bfloat16" if runtime.bfloat16() else "float32",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {runtime.torch_device()}",
        }  # fmt: skip
        (self.out / "metrics.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        (self.out / "metrics.md").write_text(markdown(content))

    def _places(self) -> Places:
        return places(self.done["invert"].result, self.config.measured_frames)

    def _folders(self) -> tuple[Path | None, Path | None, None]:
        rows = [self.standing.get(name) for name in (NAMES[self.config.encoder], DIRECTIONS)]
        encoder, directions = (None if row is None else Path(row["folder"]) for row in rows)
        return encoder, directions, None

    @contextmanager
    def _bar(self, step: str) -> Iterator[Report]:
        """Bars of one step, each stage under the step's name."""
        with bars(self.quiet) as report:
            yield lambda progress: report(dataclasses.replace(progress, stage=f"{step}: {progress.stage}"))

    def _step(
        self, name: str, inputs: Mapping[str, Any], outputs: list[Path], make: Callable[[], Mapping[str, Any]]
    ) -> Done:
        self.done[name] = self.ledger.step(name, inputs, outputs, make)
        return self.done[name]


def _note(numbers: Mapping[str, Any], stem: str) -> str:
    """The second line of a row's label."""
    if stem in numbers["edits"]:
        row = numbers["edits"][stem]
        got = row["size_clip"]
        return f"asked {row['asked']:+g} {row['unit'][:10]}\ngot {'-' if got is None else format(got, '+.1f')}"
    row = numbers["rows"][stem]
    identity = row["identity"]
    return f"{row['psnr']:.1f} dB\nidentity {'-' if identity is None else format(identity, '.2f')}"
