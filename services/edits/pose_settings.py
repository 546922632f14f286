"""Section ``pose_editor`` of ``params.yaml``: what the pose editor is made of, learns and is measured with."""

from __future__ import annotations

from dataclasses import dataclass

from modules.editing.pose import PoseEditorConfig, PoseEditSettings
from modules.lit.pose_editor import PoseEditorTraining


@dataclass(frozen=True)
class PoseEditorSettings:
    """Section ``pose_editor``: how the pose and expression editor is trained, held and set to units."""

    identity_components: int
    """Of the face model, alpha."""
    expression_components: int
    """Of the face model, beta."""
    expression_ridge: float
    """Of the components that go with a named expression, relative to its variance."""
    kept: tuple[str, ...]
    """Attributes of the samples (``services.attributes``) that the linear part leaves alone."""
    linear_ridge: float
    """Of the linear part, relative to the variance of the face model's parameters."""
    least_score: float
    """Of the mesh, below which a picture shows no face."""
    seconds: float
    """Between the two frames of a pair; the paper's 10 frames are a third of a second."""
    network: PoseEditorConfig
    """Shape of the MLP."""
    training: PoseEditorTraining
    """What it learns."""
    active: float
    """Probability with which an edit has a part in what is asked of a code in training."""
    encoded_per_clip: int
    """Frames of each training person's clip whose codes join the samples."""
    mesh_pixels: float
    """Error of the asked mesh from which it counts as a distance, not as a square."""
    named_units: float
    """The same of the named expressions, in units of their edits."""
    identity: float
    """Likeness to the unmoved face that is enough in training."""
    checkpoint_every: int
    """Steps between checkpoints."""
    seed: int
    """Of initial weights and batches."""
    calibration_codes: int
    """Codes on which units are set, half of validation and half of training persons; 0 leaves them as they are."""
    calibration_rounds: int
    """Times that units, and after them what is asked of the expression along with a turn, are set anew."""
    holding: tuple[str, ...]
    """Edits under which the expression is held, by asking for what it lost."""
    measured_per_clip: int
    """Frames of each test person's clip on which the editor is measured."""
    resolution: int
    """Side of the pictures that are measured, in pixels."""
    edits: dict[str, PoseEditSettings]
    """What is offered, by the names of ``modules.editing.pose``."""

    def __post_init__(self) -> None:
        if lost := [name for name in self.holding if name not in self.edits]:
            raise ValueError(f"pose_editor.holding names {', '.join(lost)}; pose_editor.edits has no such edit")
