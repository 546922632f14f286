"""What passes between the rooms: frames, clips, landmarks and alignments, with their frames of reference.

Pixel coordinates are x then y, origin top-left, pixel centres on integers, everywhere.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""Video at the edges: ``(T, H, W, 3)`` uint8 RGB."""


PROGRESSIVE = 1
"""FFmpeg's number of the field order of whole frames."""


_UNSAFE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control characters, halves of surrogate pairs, and ends of lines and paragraphs."""


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


class BadInputError(ValueError):
    """Input that cannot be used; the message is one line that says what to do.

    ``status`` is the HTTP status the service answers with (400, 413, 415, 422, or 507 for a full disk or
    memory); the shell exits with 2. Names that a file brought along may hold anything: characters that end a line
    or command a terminal are written as Python escapes them.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__("".join(_escaped(c) if unicodedata.category(c) in _UNSAFE else c for c in message))
        self.status = status


@dataclass(frozen=True)
class ClipInfo:
    """What a video file says of itself, after its rotation metadata was applied to the size."""

    path: Path
    """The file."""
    width: int
    """Pixels, as shown (after rotation)."""
    height: int
    """Pixels, as shown (after rotation)."""
    rate: Fraction
    """Frames per second, exact (30000/1001 stays 30000/1001); the average rate where the rate varies."""
    time_base: Fraction
    """Seconds per tick of the video stream's time stamps."""
    frames: int
    """Number of frames the container announces; 0 where it does not say."""
    duration: float
    """Seconds; 0.0 where unknown."""
    rotation: int
    """Degrees clockwise that the metadata asks for: 0, 90, 180 or 270."""
    mirrored: bool
    """Whether the metadata asks for left and right to be exchanged, after the turn."""
    pixel_aspect: Fraction
    """Width of a pixel over its height, as shown (after rotation); 1 where the clip does not say."""
    field_order: int
    """FFmpeg's number, as stored: 0 unspecified, 1 progressive, 2 to 5 interlaced."""
    variable_rate: bool
    """Whether the time stamps are unevenly spaced."""
    codec: str
    """Name of the video codec, e.g. ``h264``."""
    pixel_format: str
    """FFmpeg's name, e.g. ``yuv420p``."""
    bit_depth: int
    """Bits per component."""
    color_range: int
    """FFmpeg's number: 0 unspecified, 1 limited, 2 full."""
    color_primaries: int
    """FFmpeg's number; 2 is unspecified."""
    color_trc: int
    """FFmpeg's number; 2 is unspecified."""
    colorspace: int
    """FFmpeg's number; 2 is unspecified."""
    audio_codec: str | None
    """Name of the first audio stream's codec, or None without one."""

    @property
    def interlaced(self) -> bool:
        """Whether the clip says that its frames are fields: two in the lines of each, or in HEVC one per frame."""
        return self.field_order > PROGRESSIVE


@dataclass(frozen=True)
class FrameBatch:
    """Consecutive frames of one clip."""

    frames: Frames
    """``(T, H, W, 3)`` uint8 RGB, rotation applied."""
    pts: tuple[int, ...]
    """T time stamps in ticks of the clip's ``time_base``."""
    first: int
    """Index of the first frame in the clip, from 0."""

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise TypeError(f"frames must be (T, H, W, 3) uint8, got {self.frames.shape} {self.frames.dtype}")
        if len(self.pts) != len(self.frames):
            raise ValueError(f"{len(self.frames)} frames but {len(self.pts)} time stamps")


@dataclass(frozen=True)
class Landmarks:
    """The usual 68 points per frame."""

    points: NDArray[np.float32]
    """``(T, 68, 2)`` x, y in pixels; NaN where the frame has no face."""
    score: NDArray[np.float32]
    """``(T,)`` in [0, 1], how sure the judge is that a face is there; 0 where there is none."""

    def __post_init__(self) -> None:
        if self.points.ndim != 3 or self.points.shape[1:] != (68, 2):
            raise ValueError(f"landmarks must be (T, 68, 2), got {self.points.shape}")
        if self.score.shape != self.points.shape[:1]:
            raise ValueError(f"{len(self.points)} frames of landmarks but scores {self.score.shape}")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """``(T,)``: frames with a face."""
        valid: NDArray[np.bool_] = np.isfinite(self.points).all(axis=(1, 2)) & (self.score > 0)
        return valid


@dataclass(frozen=True)
class Alignment:
    """Where the FFHQ crop lies in each frame."""

    crop_to_frame: NDArray[np.float64]
    """``(T, 3, 3)`` similarities that send crop pixels to frame pixels, pixel centres on integers in both."""
    size: int
    """Side of the crop in pixels."""
    valid: NDArray[np.bool_]
    """``(T,)``: frames that have a face of their own; elsewhere the matrix is held from a neighbour."""

    def __post_init__(self) -> None:
        if self.crop_to_frame.ndim != 3 or self.crop_to_frame.shape[1:] != (3, 3):
            raise ValueError(f"crop_to_frame must be (T, 3, 3), got {self.crop_to_frame.shape}")
        if self.valid.shape != self.crop_to_frame.shape[:1]:
            raise ValueError(f"{len(self.crop_to_frame)} matrices but valid is {self.valid.shape}")
