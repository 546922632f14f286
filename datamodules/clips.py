"""From videos to aligned shards: one file per clip, an index that says who is in it and what was left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.alignment import SmoothingConfig, align, crop_frame, invert, natural_crop_size, transform_points
from datamodules.disk import NotWrittenError, write_whole
from datamodules.images import FORMATS, HEAD, read_image, sniff
from datamodules.people import PeopleConfig, Split, read_test_list, same_people, split_people
from datamodules.shards import Shard, encode_jpeg, metadata_of, save_shard, to_tensor
from datamodules.shots import ShotConfig, ShotDetector
from datamodules.types import Alignment, BadInputError, FrameBatch, Frames, Landmarks
from datamodules.video_read import probe, read_frames

INDEX = "index.json"
REMAKE = "dvc repro prepare"
VERSION = 1
"""Raised when the content of a shard changes for the same settings."""
HELD_OUT = "it shows a person that is tested or validated on"
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts", ".m2ts", ".wmv")
_STILLS = 32
"""Stills whose pixels are in memory at once."""

FindLandmarks = Callable[[Frames], Landmarks]
"""``(T, H, W, 3)`` frames of one clip, batch after batch, to their landmarks in frame pixels."""
Embed = Callable[[Tensor], Tensor]
"""``(N, 3, size, size)`` aligned crops in [-1, 1] to ``(N, D)`` unit identity embeddings."""
Report = Callable[[int, int, str], None]
"""``progress(done, total, name)`` after every clip."""


@dataclass(frozen=True)
class ClipsConfig:
    """What is kept of each clip."""

    size: int
    """Side of the aligned crops in pixels."""
    jpeg_quality: int
    """1 to 100; colour is kept in full resolution."""
    max_frames: int
    """Frames that are read of a clip, from its start."""
    min_frames: int
    """A clip with fewer frames that show a face is left out."""
    min_crop: int
    """A clip whose crop is never larger than this, in its own pixels, is left out: its face is too small."""
    identity_frames: int
    """Crops per shot, evenly spread, whose mean embedding stands for the person."""
    max_image_pixels: int
    """Largest still image that is read, in pixels."""


@dataclass(frozen=True)
class PreparedClip:
    """One clip of the index."""

    name: str
    sha256: str
    """Of the source file (of all files, for a folder of images)."""
    shard: str
    """File name in the prepared folder."""
    frames: int
    """Number of crops in the shard."""
    person: int
    """Same number, same person; -1 for images, whose persons are not told apart."""
    split: Split


@dataclass(frozen=True)
class Prepared:
    """What is in a prepared folder."""

    folder: Path
    clips: tuple[PreparedClip, ...]
    left_out: tuple[tuple[str, str], ...]
    """Name and reason of every source that could not be used."""

    def of(self, split: Split) -> list[PreparedClip]:
        """The clips of one split."""
        return [clip for clip in self.clips if clip.split == split]

    def data_hash(self, split: Split) -> str:
        """Hex digest of what a split holds: the sources and how they were prepared."""
        digest = hashlib.sha256()
        for clip in sorted(self.of(split), key=lambda clip: clip.sha256):
            fingerprint = (metadata_of(self.folder / clip.shard) or {}).get("fingerprint", "")
            digest.update(f"{clip.sha256} {fingerprint}\n".encode())
        return digest.hexdigest()


def prepare_clips(
    videos: Sequence[Path],
    folder: Path,
    new_tracker: Callable[[], FindLandmarks],
    embed: Embed,
    config: ClipsConfig,
    smoothing: SmoothingConfig,
    shots: ShotConfig,
    people: PeopleConfig,
    image_folders: Sequence[Path] = (),
    test_list: Path | None = None,
    made_by: str = "",
    progress: Report = lambda done, total, name: None,
) -> Prepared:
    """Align videos into one shard each and write the index; shards that are up to date are kept.

    ``new_tracker()`` starts a clip and gives what finds its landmarks. ``image_folders`` hold faces that are
    FFHQ-aligned already; they go to the training split, except those that show a person of a clip that is held
    out of it. ``made_by`` names the networks: shards of others are made anew. A video that cannot be used is
    listed with its reason, never fatal, and so is a second copy of the same file. Raises ``BadInputError``
    where nothing at all is left, and ``NotWrittenError`` where ``folder`` takes no shard: it would take no other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**asdict(config), **asdict(smoothing), **asdict(shots), "made_by": made_by, "version": VERSION}
    kept: list[tuple[str, str, Path]] = []
    left_out: list[tuple[str, str]] = []
    total = len(videos) + len(image_folders)
    for done, video in enumerate(videos, start=1):
        try:
            sha256 = _sha256(video)
            if sha256 in {known for _, known, _ in kept}:
                raise BadInputError("the same file is there twice")
            shard, fingerprint = _place(folder, "clip", sha256, settings)
            if not _is_current(shard, fingerprint):
                _write_clip(video, shard, fingerprint, new_tracker(), embed, config, smoothing, shots)
            kept.append((video.name, sha256, shard))
        except NotWrittenError:
            raise
        except BadInputError as error:
            left_out.append((video.name, str(error)))
        progress(done, total, video.name)
    identities = [Shard(shard, REMAKE).array("identities") for _, _, shard in kept]
    who = same_people(identities, people.same_person)
    tested = read_test_list(test_list) if test_list else read_test_list()
    splits = split_people([sha for _, sha, _ in kept], who, tested, people)
    clips = [
        PreparedClip(name, sha, shard.name, len(Shard(shard, REMAKE)), person, split)
        for (name, sha, shard), person, split in zip(kept, who, splits, strict=True)
    ]
    unseen = [rows for rows, split in zip(identities, splits, strict=True) if split != "train"]
    held_out = _HeldOut(unseen, people.same_person, embed, made_by)
    for done, images in enumerate(image_folders, start=len(videos) + 1):
        try:
            clips.append(_prepare_images(images, folder, config, held_out, left_out))
        except NotWrittenError:
            raise
        except BadInputError as error:
            left_out.append((images.name, str(error)))
        progress(done, total, images.name)
    if not clips:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
        raise BadInputError(f"none of {total} sources can be used ({reasons}); add clips that show a face")
    prepared = Prepared(folder, tuple(clips), tuple(left_out))
    _write_index(prepared)
    return prepared


def read_prepared(folder: Path) -> Prepared:
    """Read the index of a prepared folder. Raises ``BadInputError``."""
    try:
        index = json.loads((folder / INDEX).read_text())
        clips = tuple(PreparedClip(**clip) for clip in index["clips"])
        return Prepared(folder, clips, tuple((row["name"], row["reason"]) for row in index["left_out"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{folder} holds no prepared clips; make them with `{REMAKE}`") from error


def find_videos(folder: Path) -> list[Path]:
    """Video files in a folder and below it, told by their suffix or their bytes, in the order of their names.

    A file that is named like a video counts as one whatever is in it, so that what is wrong with it is said.
    What is hidden, or in a folder that is, does not count. Raises ``BadInputError`` for what is no folder.
    """
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder; give one that holds videos")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [path for path in shown if path.suffix.lower() in VIDEO_SUFFIXES or _kind(path).startswith("video/")]


def _write_clip(
    video: Path,
    shard: Path,
    fingerprint: str,
    find_landmarks: FindLandmarks,
    embed: Embed,
    config: ClipsConfig,
    smoothing: SmoothingConfig,
    shots: ShotConfig,
) -> None:
    landmarks, cuts = _landmarks(video, find_landmarks, config, shots)
    valid = landmarks.valid
    if valid.sum() < config.min_frames:
        raise BadInputError(
            f"a face is seen in {valid.sum()} of {len(valid)} frames, {config.min_frames} are needed"
        )
    alignment = align(landmarks, config.size, smoothing, cuts)
    if natural_crop_size(alignment) < config.min_crop:
        raise BadInputError(f"the face is too small: its crop is {natural_crop_size(alignment)} px wide")
    frame = np.flatnonzero(valid)
    shot = np.searchsorted(np.asarray(cuts), frame, side="right").astype(np.int32)
    sampled = {
        int(i) for number in np.unique(shot) for i in _spread(frame[shot == number], config.identity_frames)
    }
    jpegs, faces = _crops(video, alignment, config, sampled)
    matrices = alignment.crop_to_frame[frame]
    arrays: dict[str, NDArray[Any]] = {
        "landmarks": transform_points(invert(matrices), landmarks.points[frame]).astype(np.float32),
        "crop_to_frame": matrices,
        "frame": frame.astype(np.int64),
        "shot": shot,
        "identities": _identities(faces, dict(zip(frame.tolist(), shot.tolist(), strict=True)), embed),
    }
    info = probe(video)
    metadata = {"fingerprint": fingerprint, "name": video.name, "rate": str(info.rate)}
    save_shard(shard, arrays, jpegs, metadata)


def _landmarks(
    video: Path, find_landmarks: FindLandmarks, config: ClipsConfig, shots: ShotConfig
) -> tuple[Landmarks, list[int]]:
    found: list[Landmarks] = []
    detector = ShotDetector(shots)
    for batch in _first_frames(video, config.max_frames):
        detector.feed(batch.frames)
        found.append(find_landmarks(batch.frames))
    points = np.concatenate([part.points for part in found])
    return Landmarks(points, np.concatenate([part.score for part in found])), detector.cuts


def _crops(
    video: Path, alignment: Alignment, config: ClipsConfig, sampled: set[int]
) -> tuple[list[bytes], dict[int, NDArray[np.uint8]]]:
    """JPEGs of all frames with a face, and the pixels of the sampled ones by frame number."""
    jpegs: list[bytes] = []
    faces: dict[int, NDArray[np.uint8]] = {}
    for batch in _first_frames(video, config.max_frames):
        for number, pixels in enumerate(batch.frames, start=batch.first):
            if alignment.valid[number]:
                crop = crop_frame(pixels, alignment.crop_to_frame[number], config.size)
                jpegs.append(encode_jpeg(crop, config.jpeg_quality))
                if number in sampled:
                    faces[number] = crop
    return jpegs, faces


def _identities(faces: dict[int, NDArray[np.uint8]], shot: dict[int, int], embed: Embed) -> NDArray[np.float32]:
    """``(S, D)``: one unit embedding per shot."""
    rows = []
    for number in sorted({shot[frame] for frame in faces}):
        crops = np.stack([crop for frame, crop in sorted(faces.items()) if shot[frame] == number])
        with torch.no_grad():
            mean = embed(to_tensor(crops)).detach().float().cpu().numpy().mean(axis=0)
        rows.append(mean / max(float(np.linalg.norm(mean)), 1e-9))
    identities: NDArray[np.float32] = np.stack(rows).astype(np.float32)
    if not np.isfinite(identities).all():
        raise BadInputError("its face gives no identity")
    return identities


@dataclass(frozen=True)
class _HeldOut:
    """The persons of the clips that are not trained on, whom no still that is trained on may show."""

    identities: Sequence[NDArray[np.float32]]
    """``(S, D)`` unit embeddings per clip."""
    same_person: float
    """Cosine from which a still shows one of them."""
    embed: Embed
    made_by: str
    """Names the networks."""

    def settings(self) -> dict[str, Any]:
        """What the choice of stills follows from, the same for the same persons in any order."""
        rows = sorted(row.tobytes() for clip in self.identities for row in clip)
        digest = hashlib.sha256(b"".join(rows)).hexdigest()
        return {"held_out": digest, "same_person": self.same_person, "made_by": self.made_by}

    def reasons(self, crops: Sequence[NDArray[np.uint8]]) -> list[str]:
        """For each of ``(size, size, 3)`` crops why it may not be trained on; empty where it may."""
        if not self.identities or not crops:
            return [""] * len(crops)
        with torch.no_grad():
            found = self.embed(to_tensor(np.stack(crops))).detach().float().cpu().numpy()
        cosines = (found @ np.concatenate(self.identities).T).max(axis=1)
        # Below, not above: a face whose embedding is NaN could be anyone's.
        return ["" if cosine < self.same_person else HELD_OUT for cosine in cosines]


def _prepare_images(
    images: Path, folder: Path, config: ClipsConfig, held_out: _HeldOut, left_out: list[tuple[str, str]]
) -> PreparedClip:
    """Pack a folder of aligned faces into one shard; files that cannot be used are listed."""
    if not images.is_dir():
        raise BadInputError("it is not a folder")
    kinds = {path: _kind(path) for path in sorted(images.rglob("*")) if path.is_file()}
    left_out.extend((f"{images.name}/{path.name}", "it cannot be read") for path in kinds if not kinds[path])
    files = [path for path, kind in kinds.items() if kind in FORMATS]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {_sha256(path)}\n".encode())
    sha256 = digest.hexdigest()
    settings = {**asdict(config), **held_out.settings(), "version": VERSION}
    shard, fingerprint = _place(folder, "images", sha256, settings)
    if not _is_current(shard, fingerprint):
        jpegs, refused = _stills(files, config, held_out)
        if not jpegs:
            left_out.extend((f"{images.name}/{name}", reason) for name, reason in refused)
            raise BadInputError("it holds no image that can be used")
        count = len(jpegs)
        # Every image is a shot of its own, so no pair is made of two.
        arrays: dict[str, NDArray[Any]] = {
            "landmarks": np.full((count, 68, 2), np.nan, np.float32),
            "frame": np.arange(count, dtype=np.int64),
            "shot": np.arange(count, dtype=np.int32),
        }
        # A later run that keeps the shard still has to say what is not in it.
        metadata = {"fingerprint": fingerprint, "name": images.name, "left_out": json.dumps(refused)}
        save_shard(shard, arrays, jpegs, metadata)
    packed = Shard(shard, REMAKE)
    refused = json.loads(packed.metadata["left_out"])
    left_out.extend((f"{images.name}/{name}", reason) for name, reason in refused)
    return PreparedClip(images.name, sha256, shard.name, len(packed), -1, "train")


def _stills(
    files: Sequence[Path], config: ClipsConfig, held_out: _HeldOut
) -> tuple[list[bytes], list[tuple[str, str]]]:
    """JPEGs of the stills that can be trained on, and names and reasons of the others."""
    jpegs: list[bytes] = []
    refused: list[tuple[str, str]] = []
    for first in range(0, len(files), _STILLS):
        crops: dict[Path, NDArray[np.uint8]] = {}
        for path in files[first : first + _STILLS]:
            try:
                crops[path] = _still(path, config)
            except BadInputError as error:
                refused.append((path.name, str(error)))
        for (path, crop), reason in zip(crops.items(), held_out.reasons([*crops.values()]), strict=True):
            if reason:
                refused.append((path.name, reason))
            else:
                jpegs.append(encode_jpeg(crop, config.jpeg_quality))
    return jpegs, refused


def _still(path: Path, config: ClipsConfig) -> NDArray[np.uint8]:
    """A whole aligned picture as a ``(size, size, 3)`` crop. Raises ``BadInputError``."""
    pixels = read_image(path, config.max_image_pixels)
    if pixels.shape[0] != pixels.shape[1]:
        raise BadInputError("it is not square, so it is not FFHQ-aligned")
    scale = pixels.shape[0] / config.size
    middle = (scale - 1) / 2
    whole = np.array([[scale, 0, middle], [0, scale, middle], [0, 0, 1]])
    return crop_frame(pixels, whole, config.size)


def _first_frames(video: Path, count: int) -> Iterator[FrameBatch]:
    for batch in read_frames(video):
        left = count - batch.first
        if left <= 0:
            return
        yield FrameBatch(batch.frames[:left], batch.pts[:left], batch.first)


def _spread(values: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    chosen: NDArray[np.intp] = values[np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))]
    return chosen


def _place(folder: Path, kind: str, sha256: str, settings: dict[str, Any]) -> tuple[Path, str]:
    text = json.dumps({**settings, "sha256": sha256}, sort_keys=True)
    return folder / f"{kind}-{sha256[:16]}.safetensors", hashlib.sha256(text.encode()).hexdigest()


def _is_current(shard: Path, fingerprint: str) -> bool:
    return (metadata_of(shard) or {}).get("fingerprint") == fingerprint


def _write_index(prepared: Prepared) -> None:
    rows = {
        "clips": [asdict(clip) for clip in prepared.clips],
        "left_out": [{"name": name, "reason": reason} for name, reason in prepared.left_out],
    }
    write_whole(prepared.folder / INDEX, json.dumps(rows, indent=1) + "\n")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInputError(f"it cannot be read ({error.strerror})") from error


def _kind(path: Path) -> str:
    """What the bytes show; empty for a file that cannot be read."""
    try:
        with path.open("rb") as stream:
            return sniff(stream.read(HEAD))
    except OSError:
        return ""
