"""Who tells persons apart in the identity loss: fr_feature, or ArcFace, the papers' choice, in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from datamodules.types import BadInputError
from modules.perception.arcface import ArcFace, load_arcface
from modules.perception.identity import IdentityNet, load_identity


@dataclass(frozen=True)
class IdentityJudgeConfig:
    """Section ``identity_loss``: which net the identity term of the losses asks.

    Only losses look through it: what is measured, warned of and gated stays with fr_feature, whose likenesses the
    thresholds in ``params.yaml`` are numbers of.
    """

    net: Literal["fr_feature", "arcface"]
    """fr_feature is fetched from a registry; arcface is IR-SE50 as e4e and pSp use it."""
    arcface_weights: str
    """Path of InsightFace_Pytorch's model_ir_se50.pth, which no package registry has."""


def load_identity_judge(config: IdentityJudgeConfig, device: str | torch.device = "cpu") -> IdentityNet | ArcFace:
    """The network that ``config`` chooses, frozen; raises ``BadInputError`` where its weights are not there."""
    if config.net == "fr_feature":
        return load_identity(device)
    if not config.arcface_weights:
        raise BadInputError(
            "identity_loss.net is arcface, but arcface_weights is empty; name model_ir_se50.pth there"
        )
    return load_arcface(Path(config.arcface_weights), str(device))
