"""Lips kept under an edit, on real frames with a small real generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from adapted_toys import DYNAMICS, small_models
from torch import Tensor

from modules.editing.directions import Direction, EditRequest, EditSet
from modules.editing.expression_dynamics import Eyes, Mouth
from modules.editing.placement import ROLL, Placement
from modules.editing.stylespace import joined
from modules.generators.protocol import Generator, StyleLayer
from modules.generators.stylegan3_layout import StyleGAN3Config, plan_layers
from modules.out_of_memory import BatchSize
from modules.perception.mesh import FaceMesh
from services.pipeline import lips
from services.pipeline.lips import asked_expressions, before_expression, keep_lips, moves_lips
from services.pipeline.models import Models
from services.pipeline.options import EditOptions, PipelineConfig
from services.pipeline.plan import plan_clip
from services.pipeline.sidecar import plain
from services.pipeline.stream import edit_video
from services.pipeline.track import Track
from services.progress import CancelledError, Progress
from services.settings import load_params

__all__ = ["small_models"]
SHORT = EditOptions(start=0.5, end=0.9, keep_lips=True)
SMILE, AGE, YAW = EditRequest("smile", 1.0), EditRequest("age", 20.0), EditRequest("yaw", 10.0)


def kept(
    clip: Path, models: Models, work: Path, requests: list[EditRequest], **more: Any
) -> tuple[list[Track], tuple[str, ...]]:
    plan = plan_clip(clip, models, SHORT)
    applied = [tuple(requests)] * len(plan.faces)
    return keep_lips(clip, plan, requests, applied, models, SHORT, work, **more)


def tracks(clip: Path, models: Models, work: Path, requests: list[EditRequest], **more: Any) -> list[Track]:
    found, said = kept(clip, models, work, requests, **more)
    assert said == ()
    return found


def test_only_what_comes_before_the_expression_stands_in_eq_3() -> None:
    assert before_expression([AGE, YAW, SMILE], {}) == (AGE, YAW)
    assert before_expression([SMILE, AGE], {}) == ()
    assert before_expression([AGE, EditRequest("expression.smile", 1.0)], {}) == (AGE,)
    assert before_expression([AGE, EditRequest("smile_local", 1.0)], {}) == (AGE,)
    assert before_expression([AGE, YAW], {}) == ()


def test_edited_eyes_are_part_of_the_face_that_lips_are_compared_with() -> None:
    """As in Fig. 9: channels around the eyes move no lips."""
    eyes = [EditRequest("eye_shape", 1.0), EditRequest("gaze", 1.0)]
    assert before_expression([AGE, *eyes, SMILE], {}) == (AGE, *eyes)


def test_an_imported_edit_is_of_the_expression_where_it_was_set_to_one() -> None:
    vector = torch.zeros(2, 3)
    edits = EditSet(
        Direction(name, "steps", vector, -1, 1, "toy", attribute=attribute)
        for name, attribute in (("grin", "smile"), ("gape", "mouth_open"), ("elder", "age"), ("other", ""))
    )
    grin, gape, elder, other = (EditRequest(name, 1.0) for name in edits)
    assert before_expression([elder, other, grin], edits) == (elder, other)
    assert before_expression([AGE, gape, elder], edits) == (AGE,)
    assert before_expression([AGE, elder, other], edits) == ()


def test_expressions_that_a_net_judges_are_known_by_name_and_by_what_an_import_was_set_to() -> None:
    fury = Direction("fury", "steps", torch.zeros(2, 3), -1, 1, "toy", attribute="anger")
    edits = EditSet([fury, replace(fury, name="grin", attribute="smile")])
    assert asked_expressions([AGE, SMILE, EditRequest("grin", 1.0)], edits) == {}
    assert asked_expressions([EditRequest("surprise", 0.5), EditRequest("anger", 0.0)], edits) == {
        "surprised": 1.0
    }
    assert asked_expressions([EditRequest("fury", -0.5), EditRequest("surprise", 1.0)], edits) == {
        "angry": -1.0, "surprised": 1.0
    }  # fmt: skip
    assert asked_expressions([EditRequest("fury", -0.5), EditRequest("anger", 1.0)], edits) == {}


def test_lips_are_kept_only_where_the_edits_may_move_them(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    """An edit of the eyes alone leaves the mouth to the frame, unless the whole face is pasted."""
    eyes = EditRequest("eyes_open", 1.0)
    edits = joined(small_models.edits, EditSet([replace(small_models.edits["smile"], name="eyes_open")]))
    models = replace(small_models, edits=edits, adapted=False)
    assert not moves_lips([eyes], models, SHORT)
    assert not moves_lips([eyes, replace(SMILE, strength=0.0)], models, SHORT)
    assert moves_lips([eyes, SMILE], models, SHORT) and moves_lips([SMILE], models, SHORT)
    assert moves_lips([eyes], replace(models, adapted=True), SHORT)
    assert moves_lips([eyes], models, replace(SHORT, region="face"))
    stages: dict[bool, set[str]] = {}
    for whole in (False, True):
        told: list[Progress] = []
        options = replace(SHORT, end=0.6, balance=False, region="face" if whole else "auto")
        edit_video(clip, tmp_path / "out.mp4", [eyes], models, options, told.append)
        stages[whole] = {progress.stage for progress in told}
    assert stages[True] - stages[False] >= {"keep lips"}


def test_an_expression_that_was_asked_for_is_held_while_lips_are_led_back(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    """By face-api's net itself, on pictures of a small generator; an edit that it does not judge is left alone."""
    pushes = small_models.edits["smile"]
    edits = joined(small_models.edits, EditSet([replace(pushes, name="anger"), replace(pushes, name="pout")]))

    def found(name: str, weight: float) -> np.ndarray:
        dynamics = {"mesh": replace(DYNAMICS, iterations=4, expression_weight=weight)}
        config = replace(small_models.config.keep_lips, dynamics=dynamics)
        models = replace(small_models, edits=edits, config=replace(small_models.config, keep_lips=config))
        (track,) = tracks(clip, models, tmp_path / f"{name}-{weight}", [EditRequest(name, 1.0)])
        return track.offsets.read(0, 12)

    np.testing.assert_array_equal(found("pout", 0.0), found("pout", 30.0))
    assert np.abs(found("anger", 0.0) - found("anger", 30.0)).max() > 1e-3


@pytest.mark.parametrize(("resolution", "moving"), [(64, {16, 32, 64}), (1024, {16, 32, 64, 128, 256, 512, 1024})])
def test_rows_of_stylegan3_move_by_what_its_canvases_sample(resolution: int, moving: set[int]) -> None:
    plans = plan_layers(StyleGAN3Config.from_keywords({"z_dim": 512, "w_dim": 512, "img_resolution": 1024}))
    layers = [StyleLayer("input", plans[0].in_size, 4, 0, False)]
    layers += [StyleLayer(p.name, p.out_size, p.in_channels, n + 1, p.to_rgb) for n, p in enumerate(plans)]
    models = SimpleNamespace(generator=SimpleNamespace(num_ws=len(layers), layers=layers), device="cpu")
    rows = lips._rows(models, resolution)  # type: ignore[arg-type]
    # A canvas is its rate and a margin of 10 px on each side; the layers themselves say the rate.
    rates = [plans[0].in_rate, *(plan.out_rate for plan in plans)]
    assert {plan.out_size for plan in plans} - {int(rate) for rate in rates}
    assert rows.bool().tolist() == [int(rate) in moving for rate in rates]


def test_each_frame_has_a_code_and_an_offset_that_moves_the_coarse_rows_alone(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    config = replace(small_models.config.keep_lips, dynamics={"mesh": replace(DYNAMICS, resolution=16)})
    models = replace(small_models, config=replace(small_models.config, keep_lips=config))
    (track,) = tracks(clip, models, tmp_path, [SMILE])
    assert len(track.codes) == len(track.offsets) == 12
    offsets = track.offsets.read(0, 12)
    fine = sorted({layer.ws_index for layer in models.generator.layers if layer.resolution > 16})
    coarse = [row for row in range(models.generator.num_ws) if row not in fine]
    assert coarse and fine and (offsets[:, fine] == 0).all()
    assert (np.abs(offsets[:, coarse]).max((1, 2)) > 0).all()


def test_lips_are_looked_for_where_the_head_was(clip: Path, small_models: Models, tmp_path: Path) -> None:
    """Not in the picture that has been turned: it is turned after all."""
    move = Placement(ROLL, "degrees", -15, 15, small_models.generator.sha256)
    models = replace(small_models, edits=joined(small_models.edits, EditSet([move])))
    (still,) = tracks(clip, models, tmp_path / "still", [SMILE])
    (moved,) = tracks(clip, models, tmp_path / "moved", [EditRequest(ROLL, 15.0), SMILE])
    np.testing.assert_array_equal(moved.offsets.read(0, 12), still.offsets.read(0, 12))


def test_a_stopped_search_goes_on_and_ends_the_same(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = tracks(clip, small_models, tmp_path / "whole", [SMILE])
    seen: list[Progress] = []

    def stop() -> bool:
        return bool(seen) and seen[-1].stage == "keep lips" and seen[-1].done >= 12

    with pytest.raises(CancelledError):
        tracks(clip, small_models, tmp_path / "half", [SMILE], report=seen.append, cancelled=stop)
    (left,) = (tmp_path / "half").glob("offsets-*")
    with left.open("ab") as stream:
        stream.write(b"half a row")
    windows = []
    window = lips._window
    monkeypatch.setattr(lips, "_window", lambda ws, *rest: windows.append(len(ws)) or window(ws, *rest))
    (half,) = tracks(clip, small_models, tmp_path / "half", [SMILE])
    assert len(windows) < 4  # of four, the first were done
    np.testing.assert_array_equal(half.codes.read(0, 12), whole.codes.read(0, 12))
    np.testing.assert_allclose(half.offsets.read(0, 12), whole.offsets.read(0, 12), atol=1e-6)


def test_the_edited_clip_shows_codes_and_offsets_of_the_track(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    seen: dict[str, list[np.ndarray]] = {"kept": [], "plain": []}
    work = tmp_path / "work"
    edit_video(
        clip, tmp_path / "kept.mp4", [SMILE], small_models, SHORT, work=work,
        observe=lambda number, before, after: seen["kept"].append(after.copy()),
    )  # fmt: skip
    edit_video(
        clip, tmp_path / "plain.mp4", [SMILE], small_models, replace(SHORT, keep_lips=False),
        observe=lambda number, before, after: seen["plain"].append(after.copy()),
    )  # fmt: skip
    assert len(seen["kept"]) == len(seen["plain"]) == 12
    assert all((a != b).any() for a, b in zip(seen["kept"], seen["plain"], strict=True))
    assert {path.name for path in work.iterdir()} == {"codes-0", "codes-0.safetensors", "offsets-0"}
    # With offsets of nothing it is the plain edit.
    (work / "offsets-0").write_bytes(bytes((work / "offsets-0").stat().st_size))
    again: list[np.ndarray] = []
    edit_video(
        clip, tmp_path / "again.mp4", [SMILE], small_models, SHORT, work=work,
        observe=lambda number, before, after: again.append(after.copy()),
    )  # fmt: skip
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(again, seen["plain"], strict=True)) <= 1
    assert not list(tmp_path.glob(".*"))


def test_an_edit_of_nothing_keeps_the_frames(clip: Path, small_models: Models, tmp_path: Path) -> None:
    still = [EditRequest("smile", 0.0)]
    edit_video(
        clip, tmp_path / "out.mp4", still, small_models, SHORT,
        observe=lambda number, before, after: np.testing.assert_array_equal(before, after),
    )  # fmt: skip


def test_what_stands_before_the_expression_is_rendered_for_eq_3(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    (alone,) = tracks(clip, small_models, tmp_path / "alone", [SMILE])
    (after_age,) = tracks(clip, small_models, tmp_path / "after", [AGE, SMILE])
    (before_age,) = tracks(clip, small_models, tmp_path / "before", [SMILE, AGE])
    torch.testing.assert_close(alone.codes.read(0, 12), after_age.codes.read(0, 12))
    assert np.abs(after_age.offsets.read(0, 12) - before_age.offsets.read(0, 12)).max() > 1e-3


def test_what_stands_before_the_expression_may_be_taken_back_after_it(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    (once,) = tracks(clip, small_models, tmp_path / "once", [AGE, SMILE])
    asked = [EditRequest("age", 40.0), SMILE, EditRequest("age", -20.0)]
    (twice,) = tracks(clip, small_models, tmp_path / "twice", asked)
    np.testing.assert_array_equal(once.offsets.read(0, 12), twice.offsets.read(0, 12))


def test_a_loss_that_is_no_number_stops_its_window_and_is_said_in_the_sidecars_report(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second window of four, from its second step on; the others are searched to their end."""
    (whole,) = tracks(clip, small_models, tmp_path / "whole", [SMILE])
    by_mesh, looks = lips.by_mesh, list[int]()

    def breaking(mesh: FaceMesh, images: Tensor, unit: Tensor) -> Mouth:
        found = by_mesh(mesh, images, unit)
        looks.append(len(images))
        # A window of four frames: all as they were, each as edited, then each in both steps.
        return found._replace(lips=found.lips * torch.nan) if 13 + 9 < len(looks) <= 26 else found

    monkeypatch.setattr(lips, "by_mesh", breaking)
    (broken,), said = kept(clip, small_models, tmp_path / "work", [SMILE])
    monkeypatch.undo()
    assert len(said) == 1 and "no number after 0 of 2 steps on 3 frames between " in said[0]
    assert "a smaller pipeline.keep_lips.dynamics.mesh.learning_rate" in said[0]
    offsets, unbroken = broken.offsets.read(0, 12), whole.offsets.read(0, 12)
    np.testing.assert_allclose(offsets[:3], unbroken[:3], atol=1e-6)
    np.testing.assert_array_equal(offsets[3:6], offsets[2:3].repeat(3, 0))  # where the window began
    assert np.isfinite(offsets).all() and (offsets[6:] != offsets[2]).any()
    # The clip that is made of it says so, though it only reads what is there.
    done = edit_video(clip, tmp_path / "out.mp4", [SMILE], small_models, SHORT, work=tmp_path / "work")
    assert said[0] in done.warnings and said[0] in plain(done)["warnings"]


def test_where_the_memory_does_not_hold_a_batch_of_renderings_it_is_halved_and_goes_on(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One step: after a second one, this small generator shows what rounding did to the first.
    config = replace(small_models.config.keep_lips, dynamics={"mesh": replace(DYNAMICS, iterations=1)})
    models = replace(small_models, config=replace(small_models.config, keep_lips=config))
    (whole,) = tracks(clip, models, tmp_path / "whole", [SMILE])
    monkeypatch.setattr(lips, "BatchSize", lambda size, of, one: BatchSize(4, of, one))
    synthesize, sizes = EditSet.synthesize, list[int]()

    def little(self: EditSet, generator: Generator, ws: Tensor, *rest: Any) -> Tensor:
        if torch.is_grad_enabled():
            sizes.append(len(ws))
            if len(sizes) > 1 and len(ws) > 1:
                raise torch.OutOfMemoryError("tried to allocate")
        return synthesize(self, generator, ws, *rest)

    monkeypatch.setattr(EditSet, "synthesize", little)
    seen: list[Progress] = []
    (found,), said = kept(clip, models, tmp_path / "little", [SMILE], report=seen.append)
    assert said == tuple(f"out of memory: went on with {n} frames at once to keep the lips" for n in (2, 1))
    # The first window is done; the second is tried, halved twice, and nothing but it is rendered again.
    assert sizes[:7] == [4, 4, 2, 1, 1, 1, 1] and set(sizes[7:]) == {1}
    apart = found.offsets.read(0, 12) - whole.offsets.read(0, 12)
    assert np.abs(apart).mean() < 2e-3 < 0.02 < np.abs(whole.offsets.read(0, 12)).mean()
    assert max(one.done for one in seen if one.stage == "keep lips") == seen[-1].total


class _Heatmaps:
    """In the place of FAN, whose weights come by URL: 68 maps, each of another size."""

    def heatmaps(self, images: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 8)
        maps = small.repeat(1, 68, 1, 1) * torch.arange(68)[None, :, None, None]
        self.seen = maps
        return maps


def test_fans_heatmaps_of_the_inner_lips_stand_in_eq_3_where_they_are_chosen(
    small_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    fan = _Heatmaps()
    monkeypatch.setattr(lips, "load_fan", lambda weights, device: fan)
    config = replace(small_models.config.keep_lips, judge="fan", dynamics={"fan": DYNAMICS})
    models = replace(small_models, config=replace(small_models.config, keep_lips=config))
    of_faces = lips._judges(models, {}).mouth_of
    # What weighs nothing is not asked.
    for weight, asked in ((0.0, False), (0.1, True)):
        dynamics = {"fan": replace(DYNAMICS, expression_weight=weight)}
        chosen = replace(models, config=replace(models.config, keep_lips=replace(config, dynamics=dynamics)))
        assert (lips._judges(chosen, {"angry": 1.0}).expressed is not None) is asked
    images = torch.rand(2, 3, 64, 64)
    found = of_faces(images)(images)
    assert found.lips.shape == (2, 8, 64) and found.corners.shape == (2, 0, 2)
    torch.testing.assert_close(found.lips, fan.seen[:, 60:68].flatten(2))


def test_under_fan_the_eyes_weigh_what_the_paper_has_though_they_are_averaged_over_their_box() -> None:
    config = load_params(environment={}).section("pipeline", PipelineConfig).keep_lips
    images, others = torch.rand(2, 3, 100, 100), torch.rand(2, 3, 100, 100)

    class Masked:
        """Eq. 4 with squares in the place of LPIPS: a mean over all that is shown."""

        def features(self, shown: Tensor) -> tuple[Tensor]:
            return (shown,)

        def __call__(self, shown: Tensor, wanted: tuple[Tensor]) -> Tensor:
            return (shown - wanted[0]).square().mean((1, 2, 3))

    eyes = Eyes(Masked(), config.eye_box)  # type: ignore[arg-type]
    ours = config.dynamics["fan"].eye_weight * eyes(images, eyes.features(others))
    mask = torch.zeros(100, 100)
    left, top, right, bottom = (round(100 * share) for share in config.eye_box)
    mask[top:bottom, left:right] = 1
    torch.testing.assert_close(ours, 0.5 * Masked()(images * mask, (others * mask,)), rtol=0.01, atol=0)
