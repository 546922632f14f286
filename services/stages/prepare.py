"""The stages fetch, prepare and samples of ``dvc.yaml``: what everything else learns from."""

from __future__ import annotations

import dataclasses
import filecmp
import hashlib
import json
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.alignment import SmoothingConfig
from datamodules.clips import INDEX, ClipsConfig, FindLandmarks, Prepared, find_videos, prepare_clips
from datamodules.people import PeopleConfig, read_test_list
from datamodules.samples import SampleDataset, SamplesConfig, draw_codes, write_samples
from datamodules.types import BadInputError, Frames, Landmarks
from datamodules.video import ShotConfig
from modules.assets import asset_path, fetch, manifest
from modules.perception.detection import DetectionConfig, FaceTracker, load_face_finder, to_landmarks
from modules.perception.identity import load_identity
from services.places import CLIPS, SAMPLES
from services.settings import ROOT, Params
from services.stages.data_sheets import clips_sheet, samples_sheet
from services.training.generator import training_generator
from services.training.runs import code_sha256, stage_run

REGISTRY_CLIPS = ("clips", "franck")
CLIP_NETS = {
    "yunet": "face_detection_yunet_2023mar.onnx",
    "mediapipe": "face_landmark.tflite",
    "face-recognition-plugin": "fr_feature.onnx",
}
"""Assets and their files that decide where the faces of clips are and whose they are."""

Report = Callable[[int, int, str], None]


def fetch_parts(params: Params, report: Report = lambda done, total, what: None) -> None:
    """Fetch and verify every pretrained part and clip that is not in the cache yet."""
    assets = manifest()
    with stage_run("fetch", params, {"assets": {name: asset.sha256 for name, asset in assets.items()}}) as run:
        for done, name in enumerate(assets, start=1):
            fetch(name)
            report(done, len(assets), name)
        sizes = [file.bytes for asset in assets.values() for file in asset.files.values()]
        run.log_metrics({"assets": len(assets), "bytes": sum(sizes)})


def video_sources(folder: Path | None, registry: Sequence[Path], tested: Collection[str]) -> list[Path]:
    """The videos of ``folder``, then the clips of the ``registry`` that are tested on; without one, all of those.

    ``tested`` is the sha256 of every clip of the test list. A clip that ``folder`` holds a copy of is not brought
    along. Raises ``BadInputError`` for a folder that is none.
    """
    if folder is None:
        return list(registry)
    own = find_videos(folder)
    brought = [clip for clip in registry if hashlib.sha256(clip.read_bytes()).hexdigest() in tested]
    return own + [clip for clip in brought if not any(_is_copy(video, clip) for video in own)]


def _is_copy(video: Path, clip: Path) -> bool:
    try:
        return filecmp.cmp(video, clip, shallow=False)
    except OSError:
        return False  # a video that cannot be read is left out later, with the reason


def looked_through(detection: DetectionConfig) -> str:
    """What finds the faces of clips and tells whose they are, as text: others make other crops."""
    settings = dataclasses.asdict(detection)
    del settings["batch"]  # how many at once changes no face
    nets = {name: manifest()[name].files[file].sha256 for name, file in CLIP_NETS.items()}
    return json.dumps([settings, nets], sort_keys=True)


def prepare(params: Params, report: Report = lambda done, total, what: None) -> Prepared:
    """Align the videos of ``data.root`` and the stills of ``data.images`` into shards in ``build/clips``.

    Where ``data.root`` is a folder, the registry's clips of the committed test list come along, so that there
    are always persons to test on; the registry's other clips do not. Raises ``BadInputError`` where the folder
    and ``data.images`` give nothing to train on, and like ``prepare_clips``.
    """
    params.runtime.apply_threads()
    folder = params.data.folder()
    registry = [
        asset_path(name, file) for name in REGISTRY_CLIPS for file in manifest()[name].files
        if Path(file).suffix in (".mp4", ".mov")
    ]  # fmt: skip
    videos = video_sources(folder, registry, read_test_list())
    # The clips that come along would hide that the folder is the wrong one.
    if folder and not params.data.images and not any(video.is_relative_to(folder) for video in videos):
        raise BadInputError(f"{folder} holds no videos; put some there, or set data.root: registry")
    device = params.runtime.torch_device()
    detection = params.section("detection", DetectionConfig)
    finder = load_face_finder(detection, device)
    identity = load_identity(device)

    def new_tracker() -> FindLandmarks:
        tracker = FaceTracker(finder)

        def find(frames: Frames) -> Landmarks:
            return to_landmarks(tracker.follow(frames))

        return find

    def embed(crops: Tensor) -> Tensor:
        with torch.no_grad():
            return identity.embed(crops.to(device)).cpu()

    with stage_run("prepare", params) as run:
        prepared = prepare_clips(
            videos, CLIPS, new_tracker, embed, params.section("clips", ClipsConfig),
            params.section("smoothing", SmoothingConfig), params.section("shots", ShotConfig),
            params.section("people", PeopleConfig), [ROOT / images for images in params.data.images],
            made_by=looked_through(detection), code=code_sha256("prepare"), progress=report,
        )  # fmt: skip
        run.log_metrics({
            "clips": len(prepared.clips),
            "persons": len({clip.person for clip in prepared.clips if clip.person >= 0}),
            "frames": sum(clip.frames for clip in prepared.clips),
            "left_out": len(prepared.left_out),
        })  # fmt: skip
        run.log_file(CLIPS / INDEX)
        run.log_image("clips", clips_sheet(prepared))
    return prepared


def make_samples(params: Params, report: Report = lambda done, total, what: None) -> list[Path]:
    """Render ``samples.count`` pairs of codes and images into ``build/samples``; whole shards are kept."""
    config, generator = params.section("samples", SamplesConfig), training_generator(params)
    device = params.runtime.torch_device()

    def draw(n: int, seed: int) -> Tensor:
        return draw_codes(generator.map, n, seed, config, generator.z_dim, device)

    rendered, seconds = 0, 0.0

    def render(ws: Tensor) -> Tensor:
        nonlocal rendered, seconds
        started = time.perf_counter()
        images = generator.synthesize(ws.to(device), resolution=config.resolution).cpu()
        rendered, seconds = rendered + len(ws), seconds + time.perf_counter() - started
        return images

    def progress(done: int, total: int) -> None:
        report(done, total, "samples")

    with stage_run("samples", params, {"generator_sha256": generator.sha256}) as run:
        made_by = {"generator": generator.sha256, "code": code_sha256("samples")}
        paths = write_samples(SAMPLES, draw, render, config, progress, made_by)
        run.log_metrics({"count": config.count, "rendered": rendered})
        if rendered:  # a run that found every shard done has no speed
            run.log_metrics({"images_per_second": rendered / seconds})
        run.log_image("samples", samples_sheet(SampleDataset(SAMPLES, config.count)))
    return paths
