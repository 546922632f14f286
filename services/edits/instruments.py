"""What edits are learned and measured with: a generator, the judges of its pictures, codes to try them on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.generators import Generator
from modules.perception.identity import load_identity
from modules.perception.second_identity import load_second_identity
from services.attributes import AttributeJudge, load_attribute_judge
from services.direction_settings import DirectionSettings
from services.edits.evaluation import Embed, Render
from services.edits.pose_settings import PoseEditorSettings
from services.precise_generator import generator_for
from services.settings import Params


@dataclass(frozen=True)
class Instruments:
    """What renders codes and judges pictures."""

    generator: Generator
    render: Render
    judge: AttributeJudge
    embed: Embed
    second_embed: Embed | None = None
    """The same by a net that is in no loss and that no edit is fitted or chosen with; None goes without."""


def load_instruments(
    settings: DirectionSettings | PoseEditorSettings, params: Params, source: str | None = None
) -> Instruments:
    """The generator of ``generator.source``, or what ``load_generator`` takes, and the judges, ready for use."""
    return instruments_for(generator_for(params, source), settings, params)


def instruments_for(
    generator: Generator, settings: DirectionSettings | PoseEditorSettings, params: Params
) -> Instruments:
    """A generator, on the device of ``params.runtime`` already, and the judges."""
    device = params.runtime.torch_device()
    judge = load_attribute_judge(settings.least_score, device)
    side = min(settings.resolution, generator.resolution)
    return Instruments(
        generator,
        lambda ws: generator.synthesize(ws.to(device), resolution=side),
        judge,
        load_identity(device, judge.mesh).embed,
        load_second_identity(device, judge.mesh),
    )


def draw_single(generator: Generator, count: int, seed: int, truncation: float) -> Tensor:
    """``(count, num_ws, w_dim)`` codes of one z each, on the CPU."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return generator.map(z.to(generator.w_mean.device), truncation).float().cpu()
