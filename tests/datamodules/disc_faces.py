"""Clips of discs, whose colours tell persons apart, prepared as real ones are."""

import hashlib

import numpy as np
import pytest
import torch
from clip_maker import make_clip, make_sound
from PIL import Image

from datamodules.alignment import SmoothingConfig
from datamodules.clips import ClipsConfig, find_videos, prepare_clips
from datamodules.people import PeopleConfig
from datamodules.shots import ShotConfig
from datamodules.types import Landmarks

SIZE = 32
CLIPS = ClipsConfig(
    size=SIZE,
    jpeg_quality=95,
    max_frames=40,
    min_frames=5,
    min_crop=20,
    identity_frames=4,
    max_image_pixels=10_000,
)
PEOPLE = PeopleConfig(same_person=0.8, val_share=0.0, test_share=0.0)
SHOTS = ShotConfig(difference=0.08, histogram=0.15, ratio=3.0, recent=8)
COLOURS = {"anna": (220, 60, 60), "bert": (60, 220, 60), "carl": (60, 60, 220), "dora": (200, 200, 40)}
"""Persons of the test clips are told by the colour of their face, a disc."""


def face_picture(person, index, lost=False, width=160, height=120, background=30, radius=24):
    frame = np.full((height, width, 3), background, np.uint8)
    y, x = np.mgrid[:height, :width]
    if not lost:
        frame[(x - 50 - index) ** 2 + (y - 60) ** 2 < radius**2] = COLOURS[person]
    return frame


def track(frames):
    """Landmarks of the disc: eyes and mouth where a face's would be; none where there is no colour."""
    points, score = np.full((len(frames), 68, 2), np.nan, np.float32), np.zeros(len(frames), np.float32)
    for t, frame in enumerate(frames.astype(int)):
        ys, xs = np.nonzero(frame.max(-1) - frame.min(-1) > 80)
        if len(xs) > 50:
            radius, centre = (len(xs) / np.pi) ** 0.5, np.array([xs.mean(), ys.mean()])
            points[t] = centre
            points[t, 36:42] += (-radius / 3, -radius / 4)
            points[t, 42:48] += (radius / 3, -radius / 4)
            points[t, 48] += (-radius / 4, radius / 2)
            points[t, 54] += (radius / 4, radius / 2)
            score[t] = 1
    return Landmarks(points, score)


def embed(images):
    assert images.shape[1:] == (3, SIZE, SIZE) and images.min() >= -1 and images.max() <= 1
    colours = images[:, :, 12:20, 12:20].mean((2, 3))
    return torch.nn.functional.normalize(colours, dim=1)


def clip(folder, name, pictures):
    return make_clip(
        folder / f"{name}.mp4", frames=len(pictures), size=pictures[0].shape[1::-1], pictures=pictures
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    clip(folder, "anna1", [face_picture("anna", i) for i in range(30)])
    clip(folder, "anna2", [face_picture("anna", i, background=90) for i in range(20)])
    clip(folder, "bert", [face_picture("bert", i, lost=10 <= i < 14) for i in range(24)])
    # A cut in the middle: the face stays, the room changes.
    clip(folder, "carl", [face_picture("carl", i, background=20 if i < 10 else 200) for i in range(20)])
    clip(folder, "nobody", [face_picture("anna", i, lost=True) for i in range(20)])
    clip(folder, "hardly", [face_picture("anna", i, lost=i > 2) for i in range(20)])
    clip(folder, "tiny", [face_picture("dora", i, radius=5) for i in range(20)])
    (folder / "broken.mp4").write_bytes((folder / "anna1.mp4").read_bytes()[:3000])
    (folder / "twice.mp4").write_bytes((folder / "bert.mp4").read_bytes())
    make_sound(folder / "sound.mp4")
    (folder / "note.txt").write_text("not a clip")
    return folder


def prepare(videos, folder, tracker=track, **how):
    test_list = folder.parent / f"{folder.name}.toml"
    carl = hashlib.sha256((videos / "carl.mp4").read_bytes()).hexdigest()
    test_list.write_text(f'[clips]\n{carl} = "carl"\n')
    return prepare_clips(
        find_videos(videos), folder, lambda: tracker, how.pop("embed", embed), how.pop("config", CLIPS),
        SmoothingConfig(0, 0), SHOTS, how.pop("people", PEOPLE), test_list=test_list, **how,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "prepared"
    seen = []
    result = prepare(videos, folder, progress=lambda *row: seen.append(row))
    assert [done for done, _, _ in seen] == list(range(1, 11)) and seen[-1][1] == 10
    return result


def stills(folder, *persons):
    folder.mkdir(parents=True)
    for number, person in enumerate(persons):
        picture = np.full((64, 64, 3), COLOURS[person], np.uint8)
        picture[0, 0] = number  # no two files are the same
        Image.fromarray(picture).save(folder / f"{number:02d}-{person}.png")
    return folder
