"""Training of the pose editor in a world where pictures are the codes: it learns what was asked, and resumes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from modules.editing.pose import PoseEditor, PoseEditorConfig
from modules.encoders.vit import FrameEncoder
from modules.generators.protocol import Generator
from modules.lit.frame_encoder import FrozenParts, ImageLoss, Seen
from modules.lit.pose_editor import LitPoseEditor, PoseEditorTraining
from modules.losses.edits import Edited, Judged
from services.training.trainer import fit_steps

ROWS, WIDTH, ASKED, STEPS = 2, 4, 3, 120
PLAN = PoseEditorTraining(STEPS, 2, 4, 0.1, 1, 1.0, {"l2": 1.0}, {"asked": 1.0, "pull": 0.01})
EFFECTS = torch.randn(ASKED, ROWS * WIDTH, generator=torch.Generator().manual_seed(3))


class Drawn:
    """A generator whose picture is the code."""

    def synthesize(self, ws: Tensor, resolution: int) -> Tensor:
        return (0.05 * ws[:, None]).expand(-1, 3, -1, -1)


class Read(nn.Module):
    """The encoder that belongs to it."""

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        return frames[:, 0] / 0.05, None


def asked(edited: Edited) -> Judged:
    """What is measured of a picture are known projections of the code; squares of what is left."""
    change = ((edited.after - edited.before)[:, 0] / 0.05).flatten(1)
    return Judged((change @ EFFECTS.T - edited.asked).square().sum(1), torch.ones(len(change), dtype=torch.bool))


def module(
    plan: PoseEditorTraining = PLAN, losses: dict[str, ImageLoss] | None = None, seen: Seen | None = None
) -> LitPoseEditor:
    torch.manual_seed(0)
    editor = PoseEditor(PoseEditorConfig(16, ROWS), ROWS, torch.ones(ASKED), torch.eye(WIDTH))
    frozen = FrozenParts(cast(Generator, Drawn()), losses or {}, seen, {"mesh"})
    return LitPoseEditor(editor, cast(FrameEncoder, Read()), plan, frozen, {"asked": asked})


class Batches(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """The batch of a step follows from its number."""

    def __init__(self, first: int, breaks: int = STEPS) -> None:
        self.first, self.breaks = first, breaks

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in range(self.first, STEPS):
            if step == self.breaks:
                raise OSError("the machine goes down")
            yield batch(step)


def batch(step: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(step)
    ws, first = (torch.randn(n, ROWS, WIDTH, generator=random) for n in (4, 2))
    wanted, change = (torch.randn(n, ASKED, generator=random) for n in (4, 2))
    # The second frame is the first, moved by the least change that is measured as so much.
    second = first + (change @ torch.linalg.pinv(EFFECTS.T)).view_as(first)
    draw = Drawn().synthesize
    return {
        "ws": ws, "images": draw(ws, ROWS), "asked": wanted,
        "frames": draw(first, ROWS), "targets": draw(second, ROWS), "change": change,
    }  # fmt: skip


def test_losses_are_those_of_eq_6_on_the_pairs_and_of_what_was_asked() -> None:
    lit = module()
    data = batch(0)
    with torch.no_grad():
        found = lit.losses(data)
    # The editor answers 0 yet: the second frame is missed by all of it.
    gap = (data["targets"] - data["frames"]).flatten(1).square().mean(1).sqrt().mean()
    assert float(found["pair/l2"]) == pytest.approx(float(gap), rel=1e-4)
    assert float(found["asked/asked"]) == pytest.approx(float(data["asked"].square().sum(1).mean()), rel=1e-4)
    assert float(found["asked/pull"]) == 0


def test_a_pair_whose_face_is_not_seen_has_no_part_in_the_losses_of_faces() -> None:
    def far(reconstruction: Tensor, target: Tensor) -> Tensor:
        return torch.arange(1.0, 1.0 + len(target))

    plan = replace(PLAN, weights={"l2": 1.0, "mesh": 1.0})
    lit = module(plan, {"mesh": far}, lambda a, b: torch.tensor([False, True]))
    with torch.no_grad():
        found = lit.losses(batch(0))
    assert float(found["pair/mesh"]) == 2.0, "the second pair's alone"
    assert float(found["pair/l2"]) > 0 and lit.judge_failures == 1


def test_a_movement_whose_face_is_not_seen_has_no_part_in_what_was_asked() -> None:
    data, lit = batch(0), module()
    lit.terms = {"asked": lambda edited: asked(edited)._replace(seen=torch.tensor([True, False, True, False]))}
    with torch.no_grad():
        found = lit.losses(data)
    wanted = data["asked"][[0, 2]].square().sum(1).mean()
    assert float(found["asked/asked"]) == pytest.approx(float(wanted), rel=1e-4)
    assert lit.judge_failures == 2
    lit.terms = {"asked": lambda edited: asked(edited)._replace(seen=torch.zeros(4, dtype=torch.bool))}
    assert float(lit.losses(data)["asked/asked"]) == 0 and lit.judge_failures == 6


def test_it_learns_what_is_asked_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    whole = module()
    fit_steps(whole, STEPS, Batches, 20, tmp_path / "whole", gradient_clip=1.0)
    with torch.no_grad():
        before, after = (lit.losses(batch(999)) for lit in (module(), whole))
    assert float(after["asked/asked"]) < 0.5 * float(before["asked/asked"])
    assert float(after["pair/l2"]) < 0.8 * float(before["pair/l2"])

    def breaking(first: int) -> Batches:
        return Batches(first, breaks=50)

    with pytest.raises(OSError, match="goes down"):
        fit_steps(module(), STEPS, breaking, 20, tmp_path / "part", gradient_clip=1.0)
    rest = module()
    fit_steps(rest, STEPS, Batches, 20, tmp_path / "part", gradient_clip=1.0)
    for ours, theirs in zip(rest.editor.parameters(), whole.editor.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_weight_without_its_loss_is_refused() -> None:
    plan = PoseEditorTraining(1, 1, 1, 0.1, 1, 1.0, {"lpips_alex": 1.0}, {"mesh": 1.0})
    with pytest.raises(ValueError, match="lpips_alex, mesh"):
        module(plan)


def test_the_learning_rate_rises_and_falls_to_a_tenth() -> None:
    rates = [PLAN.learning_rate_at(step) for step in range(STEPS + 1)]
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(0.01)
    assert all(a >= b for a, b in pairwise(rates))
