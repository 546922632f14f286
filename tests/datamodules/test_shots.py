import cv2
import numpy as np
import pytest
from clip_maker import picture

from datamodules.shots import ShotConfig, ShotDetector, shot_cuts
from datamodules.video import read_frames
from modules.assets import asset_path
from services.settings import load_params

CONFIG = load_params(environment={}).section("shots", ShotConfig)


def scene(seed, frames, motion=2):
    """A textured picture that drifts."""
    random = np.random.default_rng(seed)
    tint = random.uniform(0.2, 1, 3)
    wide = (
        cv2.resize(random.integers(0, 255, (9, 40, 3), np.uint8), (900, 90), interpolation=cv2.INTER_CUBIC) * tint
    )
    return np.stack([wide[:, i * motion : i * motion + 160].astype(np.uint8) for i in range(frames)])


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_cuts_are_found_whatever_the_batches(chunk):
    clip = np.concatenate([scene(0, 20), scene(1, 1), scene(2, 30), scene(3, 9)])
    batches = [clip[i : i + chunk] for i in range(0, len(clip), chunk)]
    assert shot_cuts(batches, CONFIG) == [20, 21, 51]


def test_motion_flashes_and_fades_are_no_cuts():
    fast = scene(0, 60, motion=10)
    fade = (scene(1, 60) * np.linspace(1, 0.1, 60)[:, None, None, None]).astype(np.uint8)
    flash = scene(2, 30)
    flash[12] = 250
    assert [shot_cuts([clip], CONFIG) for clip in (fast, fade, flash)] == [[], [], []]


def test_every_cut_and_every_flash_is_suspected_as_it_comes():
    clip = np.concatenate([scene(2, 30), scene(3, 9)])
    clip[12] = 250
    detector, suspected = ShotDetector(CONFIG), []
    for index, frame in enumerate(clip):
        detector.feed(frame[None])
        suspected += [index] if detector.suspects else []
    assert suspected == [12, 30] and detector.cuts == [30]


def test_a_cut_at_the_last_frame_counts():
    detector = ShotDetector(CONFIG)
    detector.feed(np.concatenate([scene(0, 5), scene(1, 1)]))
    assert detector.cuts == [5]
    detector.feed(scene(1, 5)[1:])
    assert detector.cuts == [5]
    assert shot_cuts([], CONFIG) == [] and shot_cuts([picture(0, 64, 48)[None]], CONFIG) == []


def test_real_clips_joined_are_cut_where_they_were_joined():
    one = np.concatenate([b.frames for b in read_frames(asset_path("clips", "single_face.mp4"), end=1.0)])
    other = asset_path("clips", "WolfgangLanger_Pexels.mp4")
    two = np.concatenate([b.frames for b in read_frames(other, start=1.0, end=3.0)])
    assert shot_cuts([one, two, one[::-1]], CONFIG) == [len(one), len(one) + len(two)]
