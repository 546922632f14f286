"""Prepared clips as items and batches."""

import pickle

import numpy as np
import pytest
import torch
from disc_faces import SIZE, prepare, prepared, track, videos
from PIL import Image

from datamodules.face_video import FaceDataset, Faces, FaceVideoConfig, FaceVideoDataModule, runs
from datamodules.shards import Shard
from datamodules.types import BadInputError

__all__ = ["prepared", "videos"]


def test_crops_are_centred_and_landmarks_are_in_their_pixels(prepared):
    dataset = FaceDataset(prepared, "train")
    assert len(dataset) == 70
    for index in (0, 29, 35, 69):
        item = dataset[index]
        image, points = item.images, item.landmarks.numpy()
        assert image.shape == (3, SIZE, SIZE) and points.shape == (68, 2)
        # The disc's own points, found again in the crop (its radius is about 9 px there).
        pixels = ((image.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        np.testing.assert_allclose(track(pixels[None]).points[0], points, atol=0.5)


def test_items_are_runs_that_cross_neither_losses_nor_cuts(prepared):
    pairs = FaceDataset(prepared, "train", length=2)
    bert = [c.name for c in prepared.clips].index("bert.mp4")
    assert sum(item.clip == bert for item in pairs) == 9 + 9
    frames = Shard(prepared.folder / prepared.clips[bert].shard, "x").array("frame")
    assert frames.tolist() == [*range(10), *range(14, 24)]
    episodes = FaceDataset(prepared, "test", length=8, hop=2)
    assert len(episodes) == 2 + 2
    item = episodes[0]
    assert item.images.shape == (8, 3, SIZE, SIZE) and item.landmarks.shape == (8, 68, 2)
    torch.testing.assert_close(episodes[1].images[0], FaceDataset(prepared, "test")[2].images)
    assert runs(np.array([0, 1, 2, 5, 6, 7, 8]), np.array([0, 0, 0, 0, 0, 1, 1]), 2, 1) == [0, 1, 3, 5]
    assert runs(np.array([], int), np.array([], int), 1, 1) == []
    few = FaceDataset(prepared, "train", per_clip=5)
    assert len(few) == 15


def test_batches_of_the_data_module(prepared):
    module = FaceVideoDataModule(prepared.folder, FaceVideoConfig(2, 1, 0, 0, 4, 0))
    module.prepare_data()
    batch = next(iter(module.train_dataloader()))
    assert isinstance(batch, Faces) and batch.images.shape == (4, 2, 3, SIZE, SIZE) and batch.person.shape == (4,)
    again = next(iter(FaceVideoDataModule(prepared.folder, FaceVideoConfig(2, 1, 0, 0, 4, 0)).train_dataloader()))
    assert torch.equal(batch.images, again.images)
    assert sum(len(b.images) for b in module.test_dataloader()) == 18
    with pytest.raises(BadInputError, match="nothing for 'val'"):
        module.val_dataloader()
    restored = pickle.loads(pickle.dumps(module.dataset("train")))
    assert torch.equal(restored[3].images, module.dataset("train")[3].images)
    calls = []
    FaceVideoDataModule(
        prepared.folder, FaceVideoConfig(1, 1, 0, 0, 4, 0), prepare=lambda: calls.append(1)
    ).prepare_data()
    assert calls == [1]
    with pytest.raises(BadInputError, match="no prepared clips"):
        FaceVideoDataModule(prepared.folder / "no", FaceVideoConfig(1, 1, 0, 0, 4, 0)).train_dataloader()
    with pytest.raises(ValueError):
        FaceVideoConfig(0, 1, 0, 0, 4, 0)


def test_aligned_images_join_the_training_split(videos, prepared, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    square = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for number in range(6):
        Image.fromarray(np.roll(square, 8 * number, 0)).save(images / f"{number}.png")
    Image.fromarray(square[:40]).save(images / "wide.png")
    (images / "bad.png").write_bytes((images / "0.png").read_bytes()[:60])
    result = prepare(videos, tmp_path / "a", image_folders=[images, tmp_path / "none"])
    packed = next(c for c in result.clips if c.name == "images")
    assert (packed.frames, packed.person, packed.split) == (6, -1, "train")
    reasons = dict(result.left_out)
    assert "not square" in reasons["images/wide.png"] and "damaged" in reasons["images/bad.png"]
    assert "not a folder" in reasons["none"]
    dataset = FaceDataset(result, "train")
    assert len(dataset) == 76 and torch.isnan(dataset[75].landmarks).all() and dataset[75].person == -1
    expected = np.roll(square, 40, 0).reshape(32, 2, 32, 2, 3).mean((1, 3))
    got = (dataset[75].images.permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(got - expected).mean() < 4
    few = FaceDataset(result, "train", stills=3)
    assert [few[i].person for i in range(70, 73)] == [-1] * 3 and len(few) == 73
    torch.testing.assert_close(few[72].images, dataset[75].images)
    assert len(FaceDataset(result, "train", length=2)) == len(FaceDataset(prepared, "train", length=2))
