"""Section ``directions`` of ``params.yaml``: which edits there are, and how they are learned and measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from datamodules.types import BadInputError
from modules.lit.direction_training import DirectionTraining


@dataclass(frozen=True)
class EditSettings:
    """One edit: what is fitted, where it acts, and what one unit of it is."""

    unit: str
    """What a user reads, e.g. ``years``."""
    per_unit: float
    """How much of the judge's number one unit is."""
    kind: Literal["number", "class"]
    """Whether the attribute is regressed, or a yes (positive) or no that is told apart."""
    rows: tuple[int, int]
    """Rows ``[first, last)`` of the codes that it moves."""
    keeps: tuple[str, ...]
    """Attributes that it must leave where they are; what is not named may move along."""
    balanced: bool
    """Whether it is balanced on the face at hand, and held where others are: not what is made of others."""
    recolours: bool
    """Whether it is for colours of whole regions; where not, a pasted edit leaves light and complexion alone."""
    lower: float
    """Smallest strength offered."""
    upper: float
    """Largest strength offered."""
    typical: float
    """Strength at which its effects on others are read."""
    probe: float
    """It is set to its unit between minus and plus this strength."""
    measured: tuple[float, ...]
    """Strengths at which the finished edit is measured."""


@dataclass(frozen=True)
class RefineSettings:
    """Part ``refine`` of the section ``directions``."""

    training: DirectionTraining
    """How directions are learned; 0 steps leave them as they were fitted."""
    singles: int
    """Codes of one z each."""
    mixed: int
    """Codes of the samples, mixed between layers."""
    per_clip: int
    """Frames of each training person's clip whose codes the shipped encoder gives; 0 is none."""
    tolerance: float
    """Share of an attribute's usual strength from which its error counts as a distance, not as a square."""
    identity: float
    """Likeness to the unedited face that is enough."""
    kept: dict[str, float]
    """What no edit may move beside the edits' own attributes, and how much of it counts as one usual strength."""
    checkpoint_every: int
    """Steps between checkpoints."""
    seed: int
    """Of the batches."""


@dataclass(frozen=True)
class AloneSettings:
    """How one edit goes on learning by itself, after all have; what is not named here is as in ``refine``."""

    training: DirectionTraining
    """0 steps leave it as it is."""
    rows: tuple[int, int]
    """Rows ``[first, last)`` of the codes that it may move then."""
    reach: tuple[float, float]
    """Smallest and largest strength that it learns at."""
    identity: float
    """Likeness to the unedited face that is enough."""


@dataclass(frozen=True)
class DirectionSettings:
    """Section ``directions``: which edits are learned in W, how, and the units they are set to."""

    samples: int
    """Samples that are labelled, in whole shards."""
    held_out: int
    """Of them, those that only score the fits."""
    groups: tuple[int, ...]
    """First rows of the groups of rows that are fitted as one."""
    ridge: float
    """Penalty of the fits, in units of the features' own variance."""
    shrink: float
    """0 moves codes along what is likely in W, 1 straight across the boundary."""
    least_score: float
    """Of the mesh, below which a picture shows no face."""
    calibration_codes: int
    """Codes on which units are set: of one z for fitted edits, after that of validation and training persons."""
    calibration_seed: int
    """Of these codes; codes that edits are measured or shown on follow it."""
    calibration_rounds: int
    """Times that units are set anew from what was measured, and effects on others taken out where asked for."""
    calibration_frames: int
    """Frames of each of these persons' clips that they are chosen from."""
    unmixed: float
    """Share of the effects on others measured after refining that is taken out, 0 to 1; 0 only sets units."""
    measured_per_clip: int
    """Frames of each test person's clip on which finished edits are measured."""
    measured_codes: int
    """Codes of one z each on which an imported edit is measured."""
    sheet_codes: int
    """Codes of one z each on which the run's sheet shows every edit."""
    truncation: float
    """Psi of all codes of one z."""
    resolution: int
    """Side of the pictures that are measured, in pixels."""
    age_bands: tuple[float, ...]
    """Edges of the start ages, in years, by which the age edit is reported."""
    controls: tuple[str, ...]
    """Attributes that are fitted only so that edits can keep them."""
    edits: dict[str, EditSettings]
    """By name, in the order in which they are listed."""
    refine: RefineSettings
    """How the fitted directions go on learning through the judges."""
    alone: dict[str, AloneSettings]
    """Edits that then go on by themselves, by name."""
    start_from: str
    """Model folder of edits to go on from, e.g. ``assets/directions``: neither fitted nor refined together
    again. Empty begins anew."""
    learned: tuple[str, ...]
    """Edits that are learned beside those of ``start_from``, which stay as they are, vectors and units. Empty: all
    are learned, or go on."""

    def __post_init__(self) -> None:
        if missing := {"age", "yaw"} - self.edits.keys():
            raise BadInputError(f"directions.edits lacks what the gate reads: {', '.join(sorted(missing))}")
        if unknown := self.alone.keys() - self.edits.keys():
            raise BadInputError(f"directions.alone names no edit: {', '.join(sorted(unknown))}")
        if unknown := set(self.learned) - self.edits.keys():
            raise BadInputError(f"directions.learned names no edit: {', '.join(sorted(unknown))}")
        if self.learned and not self.start_from:
            raise BadInputError("directions.learned needs a folder with the other edits: directions.start_from")
        for name, edit in self.edits.items():
            if max(edit.measured, default=-1.0) < edit.typical:
                least = f"{edit.typical:g} or more"
                raise BadInputError(f"directions.edits.{name}: a strength of {least} must be measured")
