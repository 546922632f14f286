"""From videos to aligned shards: one file per clip, an index that says who is in it and what was left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.alignment import SmoothingConfig, align, crop_frame, invert, natural_crop_size, transform_points
from datamodules.disk import NotWrittenError, write_whole
from datamodules.images import FORMATS, HEAD, sniff
from datamodules.people import (
    BETWEEN,
    Embed,
    PeopleConfig,
    Split,
    between_splits,
    read_test_list,
    same_people,
    split_people,
)
from datamodules.shards import Shard, encode_jpeg, metadata_of, save_shard, to_tensor
from datamodules.shots import ShotConfig, ShotDetector
from datamodules.source_names import told_apart
from datamodules.stills import HeldOut, pack_stills
from datamodules.types import Alignment, BadInputError, FrameBatch, Frames, Landmarks
from datamodules.video_read import probe, read_frames

INDEX = "index.json"
REMAKE = "dvc repro prepare"
VERSION = 2
"""Raise it with each change of code that makes other crops or persons: the data's hash sees no other code."""
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts", ".m2ts", ".wmv")

FindLandmarks = Callable[[Frames], Landmarks]
"""``(T, H, W, 3)`` frames of one clip, batch after batch, to their landmarks in frame pixels."""
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
    """That of the file, with as much of its path as no other source of the index shares."""
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
        """Hex digest of what a split holds: the sources, who is the same person, and how crops are made.

        That is settings, networks and ``VERSION``: the same for the same on every machine, whatever its rounding.
        """
        clips = sorted(self.of(split), key=lambda clip: clip.sha256)
        first: dict[int, str] = {}
        digest = hashlib.sha256()
        for clip in clips:
            # The person's first clip, as the numbers of persons depend on the other splits.
            person = first.setdefault(clip.person, clip.sha256)
            said = metadata_of(self.folder / clip.shard) or {}
            made = said.get("data", said.get("fingerprint", ""))  # shards of before VERSION 2 have one hash
            digest.update(f"{clip.sha256} {person} {made}\n".encode())
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
    code: str = "",
    progress: Report = lambda done, total, name: None,
) -> Prepared:
    """Align videos into one shard each and write the index; shards that are up to date are kept.

    ``new_tracker()`` starts a clip and gives what finds its landmarks. ``image_folders`` hold faces that are
    FFHQ-aligned already; they go to the training split, except those that show a person of a clip that is held
    out of it. ``made_by`` names the networks and how faces are looked for, ``code`` is a hash of the code: shards
    of others are made anew, and the data's hash depends on ``made_by`` alone. Persons of the index that is there
    keep their splits, unless it was made for other shares or the test list names them no more. A video that cannot
    be used is listed with its reason, never fatal, and so are a second copy of the same file and a new clip that
    joins persons of different splits. Shards of sources that are gone are deleted at the end: who was withdrawn is
    not kept. Raises ``BadInputError`` where nothing at all is left, and ``NotWrittenError`` where ``folder`` takes
    no shard: it would take no other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "clips": asdict(config),
        "smoothing": asdict(smoothing),
        "shots": asdict(shots),
        "made_by": made_by,
        "version": VERSION,
    }
    kept: list[tuple[str, str, Path]] = []
    left_out: list[tuple[str, str]] = []
    names = told_apart([*videos, *image_folders])
    for done, (video, name) in enumerate(zip(videos, names, strict=False), start=1):
        try:
            sha256 = _sha256(video)
            if sha256 in {known for _, known, _ in kept}:
                raise BadInputError("the same file is there twice")
            shard, made = folder / f"clip-{sha256[:16]}.safetensors", _made_of(sha256, settings, code)
            if not _is_current(shard, made):
                _write_clip(video, shard, made, new_tracker(), embed, config, smoothing, shots)
            kept.append((name, sha256, shard))
        except NotWrittenError:
            raise
        except BadInputError as error:
            left_out.append((name, str(error)))
        progress(done, len(names), name)
    used = {shard for _, _, shard in kept}
    identities = [Shard(shard, REMAKE).array("identities") for _, _, shard in kept]
    tested = read_test_list(test_list) if test_list else read_test_list()
    earlier = _earlier_splits(folder, people, tested)
    between = between_splits([sha for _, sha, _ in kept], identities, tested, earlier, people.same_person)
    left_out += [(kept[clip][0], BETWEEN) for clip in between]
    kept = [row for clip, row in enumerate(kept) if clip not in between]
    identities = [rows for clip, rows in enumerate(identities) if clip not in between]
    who = same_people(identities, people.same_person)
    splits = split_people([sha for _, sha, _ in kept], who, tested, people, earlier)
    clips = [
        PreparedClip(name, sha, shard.name, len(Shard(shard, REMAKE)), person, split)
        for (name, sha, shard), person, split in zip(kept, who, splits, strict=True)
    ]
    unseen = [rows for rows, split in zip(identities, splits, strict=True) if split != "train"]
    held_out = HeldOut(unseen, people.same_person, embed)
    # Not their embeddings, which are rounded otherwise on another machine.
    settings["held_out"] = sorted(clip.sha256 for clip in clips if clip.split != "train")
    settings["same_person"] = people.same_person
    for done, images in enumerate(image_folders, start=len(videos) + 1):
        name = names[done - 1]
        try:
            clips.append(_prepare_images(images, name, folder, config, held_out, settings, code, left_out))
        except NotWrittenError:
            raise
        except BadInputError as error:
            left_out.append((name, str(error)))
        progress(done, len(names), name)
    if not clips:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
        raise BadInputError(f"none of {len(names)} sources can be used ({reasons}); add clips that show a face")
    prepared = Prepared(folder, tuple(clips), tuple(left_out))
    _write_index(prepared, people, tested)
    for gone in set(folder.glob("*.safetensors")) - used - {folder / clip.shard for clip in clips}:
        gone.unlink(missing_ok=True)
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
    made: dict[str, str],
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
    save_shard(shard, arrays, jpegs, {**made, "name": video.name, "rate": str(info.rate)})


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


def _prepare_images(
    images: Path,
    name: str,
    folder: Path,
    config: ClipsConfig,
    held_out: HeldOut,
    settings: dict[str, Any],
    code: str,
    left_out: list[tuple[str, str]],
) -> PreparedClip:
    """Pack a folder of aligned faces into one shard; files that cannot be used are listed."""
    if not images.is_dir():
        raise BadInputError("it is not a folder")
    kinds = {path: _kind(path) for path in sorted(images.rglob("*")) if path.is_file()}
    left_out.extend((f"{name}/{path.name}", "it cannot be read") for path in kinds if not kinds[path])
    files = [path for path, kind in kinds.items() if kind in FORMATS]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {_sha256(path)}\n".encode())
    sha256 = digest.hexdigest()
    shard, made = folder / f"images-{sha256[:16]}.safetensors", _made_of(sha256, settings, code)
    if not _is_current(shard, made):
        jpegs, refused = pack_stills(files, config.size, config.jpeg_quality, config.max_image_pixels, held_out)
        if not jpegs:
            left_out.extend((f"{name}/{file}", reason) for file, reason in refused)
            raise BadInputError("it holds no image that can be used")
        count = len(jpegs)
        # Every image is a shot of its own, so no pair is made of two.
        arrays: dict[str, NDArray[Any]] = {
            "landmarks": np.full((count, 68, 2), np.nan, np.float32),
            "frame": np.arange(count, dtype=np.int64),
            "shot": np.arange(count, dtype=np.int32),
        }
        # A later run that keeps the shard still has to say what is not in it.
        save_shard(shard, arrays, jpegs, {**made, "name": images.name, "left_out": json.dumps(refused)})
    packed = Shard(shard, REMAKE)
    refused = json.loads(packed.metadata["left_out"])
    left_out.extend((f"{name}/{file}", reason) for file, reason in refused)
    return PreparedClip(name, sha256, shard.name, len(packed), -1, "train")


def _first_frames(video: Path, count: int) -> Iterator[FrameBatch]:
    for batch in read_frames(video):
        left = count - batch.first
        if left <= 0:
            return
        yield FrameBatch(batch.frames[:left], batch.pts[:left], batch.first)


def _spread(values: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    chosen: NDArray[np.intp] = values[np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))]
    return chosen


def _made_of(sha256: str, settings: dict[str, Any], code: str) -> dict[str, str]:
    """What a shard says of its making: ``data`` is for the data's hash, ``fingerprint`` knows the code too."""
    data = hashlib.sha256(json.dumps({**settings, "sha256": sha256}, sort_keys=True).encode()).hexdigest()
    return {"data": data, "fingerprint": hashlib.sha256(f"{data} {code}".encode()).hexdigest()}


def _is_current(shard: Path, made: dict[str, str]) -> bool:
    return made.items() <= (metadata_of(shard) or {}).items()


def _write_index(prepared: Prepared, people: PeopleConfig, tested: Mapping[str, str]) -> None:
    rows = {
        "shares": _shares(people),
        "listed": [clip.sha256 for clip in prepared.clips if clip.sha256 in tested],
        "clips": [asdict(clip) for clip in prepared.clips],
        "left_out": [{"name": name, "reason": reason} for name, reason in prepared.left_out],
    }
    write_whole(prepared.folder / INDEX, json.dumps(rows, indent=1) + "\n")


def _earlier_splits(folder: Path, people: PeopleConfig, tested: Mapping[str, str]) -> dict[str, Split]:
    """The splits that the index has for clips, by sha256; none where it was made for other shares.

    Nor of persons whom the test list named then and names no more: they are dealt as if they were new.
    """
    try:
        clips = read_prepared(folder).clips
        index = json.loads((folder / INDEX).read_text())
    except BadInputError:
        return {}
    if index.get("shares", _shares(people)) != _shares(people):
        return {}
    then, now = (
        {clip.person for clip in clips if clip.sha256 in listed} for listed in (index.get("listed", ()), tested)
    )
    return {clip.sha256: clip.split for clip in clips if clip.person >= 0 and clip.person not in then - now}


def _shares(people: PeopleConfig) -> dict[str, float]:
    return {"val": people.val_share, "test": people.test_share}


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
