"""The frozen networks that trainings render and judge with, from ``params.yaml``."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.generators.mobile import MobileStyleGAN
from modules.lit.frame_encoder import ImageLoss, Seen
from modules.losses.face import FaceLoss, FaceTerm, IdentityLoss
from modules.losses.perceptual import load_lpips
from modules.perception.face_judge import FaceJudgeConfig, load_face_judge
from modules.perception.identity_judge import IdentityJudgeConfig, load_identity_judge
from modules.perception.mesh import FaceMesh, load_face_mesh
from services.precise_generator import generator_for
from services.settings import Params
from services.training import TrainerConfig

OF_FACES = ("landmark_features", "mesh", "identity")
"""Losses that are nothing where no face is seen."""


def training_generator(params: Params) -> MobileStyleGAN:
    """The generator that networks are trained for, in the precision of ``params.runtime``.

    Raises ``BadInputError`` for one whose features cannot be had, which their losses and statistics need.
    """
    generator = generator_for(params)
    if not isinstance(generator, MobileStyleGAN):
        raise BadInputError(f"networks are trained for a MobileStyleGAN, not for a {type(generator).__name__}")
    return generator


def trained_with(params: Params, trainer: TrainerConfig) -> MobileStyleGAN:
    """The same for a training that renders over and over: compiled on a GPU, where the trainer may."""
    generator = training_generator(params)
    if trainer.compile == "auto" and params.runtime.torch_device() == "cuda":
        generator.compile_gradients()
    return generator


def image_losses(params: Params, names: Collection[str]) -> dict[str, ImageLoss]:
    """The losses among ``names`` that a frozen network computes."""
    losses: dict[str, ImageLoss] = {}
    if "lpips_vgg" in names:
        losses["lpips_vgg"] = load_lpips("vgg")
    if "lpips_alex" in names:
        losses["lpips_alex"] = load_lpips("alex")
    if {"landmark_features", "mesh"} & set(names):
        face = FaceLoss(load_face_judge(params.section("face_judge", FaceJudgeConfig)))
        losses["landmark_features"] = FaceTerm(face, "landmark")
        losses["mesh"] = FaceTerm(face, "mesh")
    if "identity" in names:
        losses["identity"] = IdentityLoss(
            load_identity_judge(params.section("identity_loss", IdentityJudgeConfig))
        )
    return losses


def face_seen(params: Params) -> Seen:
    """Whether MediaPipe's mesh is sure enough of a face in both images (``face_judge.min_score``)."""
    return seen_by(load_face_mesh(), params.section("face_judge", FaceJudgeConfig).min_score)


def seen_by(mesh: FaceMesh, min_score: float) -> Seen:
    """``seen(a, b)``, both ``(N, 3, H, W)``, says for each of N whether the mesh scores both at least so high."""

    def seen(reconstruction: Tensor, target: Tensor) -> Tensor:
        mesh.to(target.device)
        with torch.no_grad():
            scores: Tensor = mesh(torch.cat([reconstruction, target])).score
        return (scores >= min_score).reshape(2, -1).all(dim=0)

    return seen


def judged_by(params: Params) -> list[str]:
    """What the losses look through, as text for a fingerprint: other judges make another training."""
    return [
        repr(params.section("face_judge", FaceJudgeConfig)),
        repr(params.section("identity_loss", IdentityJudgeConfig)),
    ]
