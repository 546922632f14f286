"""Video in and out: exact rational rates, rotation applied, colour kept, audio copied, a few frames at a time."""

from datamodules.shots import ShotConfig, ShotDetector, shot_cuts
from datamodules.video_read import probe, read_frames
from datamodules.video_write import ENCODERS, VideoWriter, loses_fields

__all__ = [
    "ENCODERS",
    "ShotConfig",
    "ShotDetector",
    "VideoWriter",
    "loses_fields",
    "probe",
    "read_frames",
    "shot_cuts",
]
