"""The networks that one edit needs, loaded once, with the names and hashes that a sidecar keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.alignment import SmoothingConfig
from datamodules.landmark_flow import LandmarkFlowConfig
from datamodules.types import BadInputError, Frames
from datamodules.video import ShotConfig
from modules.editing.directions import Edit, EditSet, load_directions
from modules.editing.placement import PlacementConfig, placements
from modules.editing.pose import KIND as POSE_KIND
from modules.editing.pose import load_pose_editor
from modules.editing.stylespace import KIND as STYLESPACE_KIND
from modules.editing.stylespace import joined, load_stylespace
from modules.encoders.irse import load_encoder as load_published_encoder
from modules.encoders.restoring import RestoringEncoder, Task
from modules.encoders.video_vit import VideoEncoder
from modules.encoders.vit import FrameEncoder
from modules.generators.adaptation import adapted, load_adaptation
from modules.generators.protocol import Generator, HasPrecision
from modules.model_folder import load_model
from modules.perception.detection import (
    DetectionConfig,
    FaceDetector,
    FaceFinder,
    FaceObservation,
    load_face_finder,
)
from modules.perception.mesh import FaceMesh
from modules.perception.parsing import Regions
from modules.perception.region import ParsingConfig, RegionParser, load_region_parser
from services.attributes import AttributeJudge, load_attribute_judge
from services.balancing import Balancing, balancing_of
from services.consent import Subject, require_consent
from services.model_names import ADAPTATION, DIRECTIONS, GENERATOR, POSE_EDITOR, STYLESPACE
from services.pipeline.encoders import Encoder, asked_for, load_encoder, name_of, shipped_encoder
from services.pipeline.options import PipelineConfig
from services.pipeline.sidecar import file_sha256, plain
from services.pipeline.unedited import UneditedFaces
from services.precise_generator import generator_for
from services.settings import ROOT, Params

if TYPE_CHECKING:
    from modules.losses.perceptual import PerceptualLoss
    from modules.perception.identity import IdentityNet
    from modules.perception.second_identity import SecondIdentityNet

SHIPPED_DIRECTIONS = ROOT / "assets" / "directions"
SHIPPED_STYLESPACE = ROOT / "assets" / "stylespace"
SHIPPED_POSE_EDITOR = ROOT / "assets" / "pose-editor"
Chosen = tuple[Path | None, Path | None, str | None]
"""Encoder folder, directions folder and generator, where the user names others than the shipped ones."""
BESIDE = "directions "
"""Begins the names in ``Models.versions`` of further folders of edits."""
PARSED_SIDE = 256
SECTIONS = ("detection", "parsing", "smoothing", "landmark_flow", "shots", "pipeline")
"""Of ``params.yaml``: what an output depends on beside ``runtime``, see ``Models.numbers``."""


class Judges:
    """The frozen networks that find, compare and cut out faces, each loaded when it is first needed."""

    def __init__(
        self,
        detection: DetectionConfig,
        lpips_net: Literal["vgg", "alex"],
        device: str,
        parsing: ParsingConfig | None = None,
    ) -> None:
        """``parsing`` is needed for ``regions`` alone."""
        self.detection, self._lpips_net, self.device = detection, lpips_net, device
        self.parsing = parsing or ParsingConfig("selfie", "")

    @cached_property
    def finder(self) -> FaceFinder:
        """Boxes, mesh and landmarks of faces in frames."""
        return load_face_finder(self.detection, self.device)

    @cached_property
    def _quick(self) -> FaceFinder:
        """The same without the second, larger search."""
        config = replace(self.detection, largest_side=self.detection.long_side)
        return FaceFinder(FaceDetector(config), self.mesh)

    @property
    def mesh(self) -> FaceMesh:
        """468 points of a face in an upright crop."""
        return self.finder.mesh

    @cached_property
    def identity(self) -> IdentityNet:
        """Who is in a crop."""
        from modules.perception.identity import load_identity

        return load_identity(self.device, self.mesh)

    @cached_property
    def attributes(self) -> AttributeJudge:
        """What edits change, in numbers."""
        return load_attribute_judge(self.detection.mesh_score, self.device, self.mesh)

    @cached_property
    def second_identity(self) -> SecondIdentityNet:
        """The same by a net that nothing is trained with."""
        from modules.perception.second_identity import load_second_identity

        return load_second_identity(self.device, self.mesh)

    @cached_property
    def parser(self) -> RegionParser:
        """Which part of a crop is face, hair or background."""
        return load_region_parser(self.parsing, self.device)

    @cached_property
    def perceptual(self) -> PerceptualLoss:
        """LPIPS: two batches in [-1, 1] to distances ``(N,)``."""
        from modules.losses.perceptual import load_lpips

        return load_lpips(self._lpips_net, self.device)

    def find(self, frames: Frames) -> list[list[FaceObservation]]:
        """The faces of consecutive frames ``(T, H, W, 3)``, for each frame largest first.

        Where a frame shows none at the usual size, the first and the last such frame are searched thoroughly,
        which takes ten times as long, and the others only if that finds one.
        """
        found = self._quick.find(frames)
        empty = [index for index, faces in enumerate(found) if not faces]
        probes = sorted({*empty[:1], *empty[-1:]})
        thorough = self.finder.find(frames[probes]) if probes else []
        rest = [index for index in empty if index not in probes] if any(thorough) else []
        thorough += self.finder.find(frames[rest]) if rest else []
        for index, faces in zip([*probes, *rest], thorough, strict=True):
            found[index] = faces
        return found

    def regions(self, images: Tensor) -> Regions:
        """Where crops ``(N, 3, S, S)`` show the face, the head, and what is behind, ``(N, 1, S, S)`` each."""
        if images.shape[2] != images.shape[3]:
            raise ValueError(f"crops must be square, got {tuple(images.shape)}")
        # The parser looks at 256 px whatever comes in; masks are soft, so the rest is saved.
        side = min(PARSED_SIDE, images.shape[-1])
        small = F.interpolate(images.float(), side, mode="bilinear", antialias=True)
        found = self.parser.regions(small, self.mesh(small).points)
        return Regions(
            *(
                F.interpolate(mask, images.shape[-1], mode="bilinear", align_corners=False).clamp(0, 1)
                for mask in found
            )
        )


@dataclass(frozen=True)
class Models:
    """What inverts and edits: a generator and what was made for it."""

    generator: Generator
    encoder: Encoder | None
    """None until one is trained or fetched: inversion then begins at the mean face."""
    edits: EditSet[Edit]
    judges: Judges
    config: PipelineConfig
    smoothing: SmoothingConfig
    landmark_flow: LandmarkFlowConfig
    shots: ShotConfig
    device: str
    """``cpu`` or ``cuda``."""
    versions: dict[str, str] = field(default_factory=dict)
    """Name of each model to its version or the hash of its weights."""
    balancing: Balancing | None = None
    """How edits are balanced on the face at hand; None leaves them as they are."""
    adapted: bool = False
    """Whether the generator has learned the face at hand: the encoder's codes are then taken as they are."""
    learned_with: tuple[str, ...] = ()
    """What was to be said when it learned it, one line each."""
    learned_by: Mapping[str, object] = field(default_factory=dict)
    """How it learned it, as JSON: section ``adaptation``, and what it went on from; empty where it did not."""
    stitched: Generator | None = None
    """What draws the edited face, where it was tuned to meet the frames around; None is ``generator``."""
    task: Task | None = None
    """What ``encoder`` restores, where it is one that does; nothing is edited then, what is lacking is added."""
    unedited: UneditedFaces = field(default_factory=lambda: UneditedFaces(0), compare=False, repr=False)
    """Faces before their edits, and what is what in their crops; remembered where many edits follow."""

    def __post_init__(self) -> None:
        made_for = {edit.generator_sha256 for edit in self.edits.values()}
        if made_for - {self.generator.sha256}:
            raise BadInputError(
                f"the directions belong to generator {', '.join(made_for)}, "
                f"but the one in use is {self.generator.sha256}"
            )
        side = looks_at(self.encoder)
        if side is not None and side != self.config.crop_size:
            raise BadInputError(
                f"the encoder looks at crops of {side} px, pipeline.crop_size is {self.config.crop_size}: set it "
                f"to {side}, or name an encoder that was trained with such crops"
            )

    @property
    def at_once(self) -> int:
        """Crops that are synthesised at once: ``config.batch`` on a GPU, one on a CPU."""
        return 1 if self.device == "cpu" else self.config.batch

    @property
    def precision(self) -> str:
        """``float32`` or ``bfloat16``: what the generator's features are computed in, whatever was asked for."""
        dtype = self.generator.compute_dtype if isinstance(self.generator, HasPrecision) else torch.float32
        return str(dtype).removeprefix("torch.")

    def numbers(self) -> dict[str, object]:
        """``SECTIONS`` of ``params.yaml``, ``runtime`` as it was resolved, how edits are balanced; as JSON.

        Where the generator learned the face, ``adaptation`` and ``learned_from`` too.
        """
        judges = (self.judges.detection, self.judges.parsing)
        read = (*judges, self.smoothing, self.landmark_flow, self.shots, self.config)
        sections = {name: plain(section) for name, section in zip(SECTIONS, read, strict=True)}
        runtime = {"device": self.device, "precision": self.precision}
        return {"runtime": runtime, **sections, "balancing": plain(self.balancing), **self.learned_by}

    def without_edits(self) -> dict[str, str]:
        """``versions`` but for those of edits."""
        edits = (DIRECTIONS, STYLESPACE, POSE_EDITOR)
        return {
            name: version for name, version in self.versions.items()
            if name not in edits and not name.startswith(BESIDE)
        }  # fmt: skip

    def mean_codes(self, count: int) -> Tensor:
        """``(count, num_ws, w_dim)``: the mean face."""
        return self.generator.w_mean.to(self.device).expand(count, self.generator.num_ws, -1).contiguous()


def load_models(
    params: Params,
    encoder: Path | None = None,
    directions: Path | None = None,
    generator: str | None = None,
    beside: Sequence[Path] = (),
) -> Models:
    """Load the generator, the encoder and the edits on the device of ``params.runtime``.

    ``encoder`` and ``directions`` are model folders, by default the ones shipped in ``assets/`` where they are
    there and belong to the generator; ``frame`` and ``video`` name the shipped encoders, ``pipeline.encoder``
    says which is usual. An ``encoder`` may be a pSp, e4e or ReStyle checkpoint too, which does not say whose codes
    it gives: its rows have to fit. ``generator`` is what ``load_generator`` takes, else ``generator.source`` is.
    ``beside`` are further folders of edits; of two edits of one name the later folder's is taken. Raises
    ``BadInputError`` for models of another generator, or for other crops than ``pipeline.crop_size``.
    """
    base = load_bare_models(params, generator)
    made, device, config, versions = base.generator, base.device, base.config, dict(base.versions)
    network: Encoder | None = None
    encoder, kind = asked_for(encoder, config.encoder)
    encoder = encoder or shipped_encoder(kind, made.sha256)
    if encoder is not None and encoder.is_file():
        network = load_published_encoder(encoder, made, config.restyle_steps, device)
        versions[f"encoder {encoder.name}"] = file_sha256(encoder)
    elif encoder is not None:
        network, versions[name_of(encoder)] = load_encoder(encoder, made, device)
    directions = directions or fitting(SHIPPED_DIRECTIONS, made.sha256)
    edits: list[Mapping[str, Edit]] = [placements(params.section("placement", PlacementConfig), made.sha256)]
    if directions is not None:
        edits.append(load_directions(directions, made.sha256))
        versions[DIRECTIONS] = load_model(directions).identity
    channels = fitting(SHIPPED_STYLESPACE, made.sha256)
    if channels is not None:
        edits.append(load_stylespace(channels, made.sha256))
        versions[STYLESPACE] = load_model(channels).identity
    pose = fitting(SHIPPED_POSE_EDITOR, made.sha256)
    if pose is not None:
        edits.append(load_edits(pose, made.sha256))
        versions[POSE_EDITOR] = load_model(pose).identity
    for number, folder in enumerate(beside, 1):
        edits.append(load_edits(folder, made.sha256))
        versions[f"{BESIDE}{number}: {folder.name}"] = load_model(folder).identity
    balancing = balancing_of(params)
    return replace(base, encoder=network, edits=joined(*edits), versions=versions, balancing=balancing)


def load_bare_models(params: Params, generator: str | None = None) -> Models:
    """The generator and the judges alone, on the device of ``params.runtime``."""
    device, asked = params.runtime.torch_device(), params.section("pipeline", PipelineConfig)
    made = generator_for(params, generator)
    config = asked.within(made.resolution)
    parsing = params.section("parsing", ParsingConfig)
    judges = Judges(params.section("detection", DetectionConfig), config.refine.lpips_net, device, parsing)
    smoothing = params.section("smoothing", SmoothingConfig)
    carried = params.section("landmark_flow", LandmarkFlowConfig)
    shots = params.section("shots", ShotConfig)
    versions = {GENERATOR: made.sha256}
    return Models(made, None, EditSet(()), judges, config, smoothing, carried, shots, device, versions)


def with_adaptation(models: Models, folder: Path, generator: Generator | None = None) -> Models:
    """The same models with the generator adapted as a folder says; ``generator`` where that was done before.

    Raises ``BadInputError`` for an adaptation of another base or one whose consent has run out.
    """
    adaptation = load_adaptation(folder, models.generator.sha256)
    config = adaptation.config
    subject = Subject.of(config)
    require_consent(subject, subject.name or folder.name)
    report = config.get("report")
    learned_from = {name: config.get(name) for name in ("source", "options", "start_from")}
    return replace(
        models,
        generator=generator or adapted(models.generator, adaptation.difference),
        versions={**models.versions, ADAPTATION: adaptation.sha256},
        adapted=True,
        learned_with=tuple(str(line) for line in report.get("warnings", ())) if isinstance(report, dict) else (),
        learned_by={"adaptation": config.get("settings"), "learned_from": learned_from},
    )


def looks_at(encoder: Encoder | None) -> int | None:
    """Side in pixels of the only crops that an encoder takes; None where it takes any."""
    if isinstance(encoder, VideoEncoder):
        return looks_at(encoder.first)
    if isinstance(encoder, RestoringEncoder):
        return looks_at(encoder.net)
    return encoder.config.image_size if isinstance(encoder, FrameEncoder) else None


def fitting(shipped: Path, generator_sha256: str) -> Path | None:
    """A shipped model folder where it is there and belongs to the generator, None otherwise."""
    if not shipped.is_dir():
        return None
    return shipped if load_model(shipped).config.get("generator_sha256") == generator_sha256 else None


def load_edits(folder: Path, generator_sha256: str) -> EditSet[Edit]:
    """The edits of a model folder: ``directions``, ``stylespace``, ``pose-editor``; raises ``BadInputError``."""
    kind = load_model(folder).config["kind"]
    if kind == STYLESPACE_KIND:
        return joined(load_stylespace(folder, generator_sha256))
    if kind == POSE_KIND:
        return joined(load_pose_editor(folder, generator_sha256).edits())
    return joined(load_directions(folder, generator_sha256))
