"""What the pipeline takes from ``params.yaml``, and what a user chooses per edit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from datamodules.types import BadInputError
from modules.editing.expression_dynamics import DynamicsConfig
from modules.editing.stitching import StitchingTraining
from services.pipeline.behind import BehindConfig
from services.pipeline.composite import CompositeConfig
from services.pipeline.encoders import EncoderKind
from services.pipeline.faces import FacesConfig, check_face
from services.pipeline.light import ComplexionConfig
from services.pipeline.moved import MovedConfig
from services.pipeline.parts import PartsConfig
from services.pipeline.refine import FollowConfig, RefineConfig
from services.pipeline.seam import SeamConfig

Region = Literal["auto", "face", "head"]
LEAST_SIDE = 64
"""Of crops that are compared, in pixels: LPIPS with AlexNet takes 35 or more, generators draw powers of two."""


@dataclass(frozen=True)
class VideoConfig:
    """How edited clips are written."""

    codec: str
    """One of ``h264``, ``hevc``, ``vp9`` and ``ffv1``."""
    crf: int
    """Constant rate factor of the encoder: smaller is larger and better."""


@dataclass(frozen=True)
class PreviewConfig:
    """What ``preview`` leaves out."""

    every: Annotated[int, Field(gt=0)]
    """One frame in this many is edited and written."""
    size: Annotated[int, Field(ge=LEAST_SIDE)]
    """Side of the synthesised crop in pixels; a generator's own where that is smaller."""


@dataclass(frozen=True)
class WarningsConfig:
    """Where the report warns of a poor reconstruction."""

    identity_distance: float
    """Distance of reconstruction and crop by the second identity net, above which frames are named."""
    landmark_error: float
    """Landmark error, in percent of the distance of the eyes, above which frames are named."""
    try_refine: int
    """Steps that the warning suggests to try."""


@dataclass(frozen=True)
class PipelineConfig:
    """Section ``pipeline``: how a clip becomes codes and an edit becomes frames."""

    encoder: EncoderKind
    """``frame`` encodes each frame for itself, ``video`` knows the one before: less jitter."""
    crop_size: Annotated[int, Field(ge=LEAST_SIDE)]
    """Side in pixels at which crops are encoded and compared; a generator's own where that is smaller."""
    sizes: tuple[Annotated[int, Field(gt=0)], ...]
    """Sides at which crops are synthesised: the smallest that is not smaller than the face's crop in the frame."""
    chunk: Annotated[int, Field(gt=0)]
    """Frames that are decoded and held at once."""
    batch: Annotated[int, Field(gt=0)]
    """Crops that are synthesised at once on a GPU; a CPU takes one at a time."""
    measure_every: Annotated[int, Field(gt=0)]
    """Identity and landmark error of the reconstruction are measured on one frame in this many."""
    faces: FacesConfig
    """How faces are followed, held and faded."""
    restyle_steps: int
    """How often a ReStyle encoder looks at what it got so far; 5 were published."""
    refine: RefineConfig
    """How codes are optimised where that is asked for."""
    follow: FollowConfig
    """How those of a clip's frames are, one after another."""
    composite: CompositeConfig
    """How the mask is made."""
    parts: PartsConfig
    """Which edits leave a part of the face as it is in the frame."""
    moved: MovedConfig
    """What counts as moved by an edit, so that the edited face stands in for the frame's there."""
    complexion: ComplexionConfig
    """What of an edit's change is light and complexion, and is left out where no edit is for colours."""
    behind: BehindConfig
    """What stands behind a head that is pasted whole."""
    seam: SeamConfig
    """How the drift of colours is removed where the face itself is pasted."""
    video: VideoConfig
    """How results are encoded."""
    preview: PreviewConfig
    """What a fast look leaves out."""
    keep_lips: KeepLipsConfig
    """How edited lips are led back to what they did."""
    stitching: StitchingConfig
    """How edited faces are led to meet the frames around them."""
    warnings: WarningsConfig
    """When a reconstruction counts as poor."""

    def within(self, side: int) -> PipelineConfig:
        """For a generator that draws faces of ``side`` px; raises ``BadInputError`` below ``LEAST_SIDE``."""
        if side < LEAST_SIDE:
            raise BadInputError(
                f"the generator draws faces of {side} px, none below {LEAST_SIDE} px are compared with frames; "
                "name a larger one"
            )
        preview = replace(self.preview, size=min(self.preview.size, side))
        return replace(self, crop_size=min(self.crop_size, side), preview=preview)


@dataclass(frozen=True)
class KeepLipsConfig:
    """Expression dynamics of StylePortraitVideo, section 3.3."""

    judge: Literal["mesh", "fan"]
    """What sees the lips: MediaPipe's mesh, or FAN's heatmaps, whose weights come by URL."""
    fan_weights: str
    """Path of 2DFAN4-11f355bf06.pth.tar; empty is torch's hub cache."""
    dynamics: dict[str, DynamicsConfig]
    """By judge, as each has units of its own."""
    eye_box: tuple[float, float, float, float]
    """Left, top, right and bottom of the eyes' mask, as shares of the crop's side."""
    lpips_net: Literal["vgg", "alex"]
    """Backbone of eq. 4."""


@dataclass(frozen=True)
class StitchingConfig:
    """Stitching tuning (Tzaban et al. 2022), one for all frames of a clip."""

    iterations: int
    """Steps of Adam."""
    batch_size: int
    """Frames per step; halved, and said so, where the memory does not hold them."""
    frames: int
    """Frames of the clip that are looked at, at most, spread over it."""
    training: StitchingTraining
    """Losses and learning rate."""
    lpips_net: Literal["vgg", "alex"]
    """Backbone of LPIPS; a step with vgg takes twice as long."""
    checkpoint_every: int
    """Steps between checkpoints, which a killed job goes on from."""
    seed: int
    """Of the order of the frames."""


MOST_STEPS = 10_000
"""Of refinement per frame: more is a slip of the finger that would keep every later job waiting."""


@dataclass(frozen=True)
class EditOptions:
    """What a user chooses per edit; the sidecar keeps it."""

    face: str = "largest"
    """``largest``, ``all``, or a number that counts the faces from the left, from 0."""
    refine: int | None = None
    """Steps of W+ optimisation; None: those of ``pipeline.refine`` (images) or ``pipeline.follow`` (clips), none
    in a preview, with a generator that learned the face, and where ``random_identity`` hides the person."""
    paste: Literal["auto", "difference", "mixed", "replace"] = "auto"
    """``difference`` adds what the edit changes to the frame, ``replace`` pastes the edited face itself.

    ``mixed`` adds the difference where things stay, and shows the edited face where they move: a difference would
    leave lips and lids where they were too. ``auto`` replaces where a pose is edited, as the outline moves, and
    where the generator learned the face; it mixes for all else.
    """
    region: Region = "auto"
    """What may change: the ``face``, the ``head`` with its hair; ``auto`` is the head for a pose or the hair, and
    a part of the face for an edit of mouth or eyes alone that does not replace it (``pipeline.parts``)."""
    start: float | None = None
    """Seconds into the clip at which to begin."""
    end: float | None = None
    """Seconds into the clip at which to end."""
    preview: bool = False
    """A fast look: fewer frames, a small synthesis, no refinement."""
    balance: bool = True
    """Measure on this face what the edit does, and take back what was not asked; one look takes a rendering."""
    keep_lips: bool = False
    """Move the edited codes until the lips do what they did before the expression was edited; slow on a CPU."""
    adapt: bool = False
    """Let the generator learn the face of this clip first: takes minutes, and comes far nearer to the person."""
    stitch: bool = False
    """Tune the generator until the replaced face meets the frames around it; a step for each of the iterations."""
    seed: int = 0
    """Which of many outcomes, where an edit has many: the same seed gives the same one on every frame and clip."""

    def __post_init__(self) -> None:
        check_face(self.face)
        if self.refine is not None and not 0 <= self.refine <= MOST_STEPS:
            raise BadInputError(f"refine must be 0 to {MOST_STEPS} steps per frame, got {str(self.refine)[:20]}")
        if self.preview and self.refine:
            raise BadInputError("a preview is not refined: leave refine out, or leave preview out")
        if not 0 <= self.seed < 2**63:
            raise BadInputError(f"seed must be a whole number from 0, got {self.seed}")
        if self.stitch and self.face == "all":
            raise BadInputError("stitching is of one face; choose 'largest' or a number from the left, from 0")
        if self.stitch and self.paste in ("difference", "mixed"):
            raise BadInputError(
                "stitching is for a face that replaces the frame's; a change that is added has no border to meet"
            )
        if self.start is not None and not self.start >= 0:
            raise BadInputError(f"start must be 0 s or later, got {self.start:g}")
        if self.end is not None and not self.end > (self.start or 0):
            raise BadInputError(f"end must be later than start, got {self.start or 0:g} to {self.end:g} s")

    def steps(self, config: RefineConfig | FollowConfig, adapted: bool = False) -> int:
        """Steps of refinement that these options ask for, per frame of what ``config`` is for: images or clips.

        An ``adapted`` generator has learned the encoder's codes: they are refined only where that is asked for.
        """
        if self.preview:
            return 0
        usual = 0 if adapted else config.steps
        return usual if self.refine is None else self.refine
