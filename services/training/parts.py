"""The frozen networks that trainings judge with, from ``params.yaml``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from modules.losses.face import FaceLoss, FaceTerm, IdentityLoss, ImageLoss, Seen
from modules.losses.perceptual import load_lpips
from modules.perception.face_judge import FaceJudgeConfig, load_face_judge
from modules.perception.identity_judge import IdentityJudgeConfig, load_identity_judge
from modules.perception.mesh import FaceMesh, load_face_mesh
from services.code_hash import named_sha256, nets_sha256
from services.settings import Params

JUDGING = ("bfm", "face-recognition-plugin", "lpips-backbones", "mediapipe")
"""Assets with the networks behind losses."""
OF_FACES = ("landmark_features", "mesh", "identity")
"""Losses that are nothing where no face is seen."""


def image_losses(params: Params, names: Collection[str]) -> dict[str, ImageLoss]:
    """The losses among ``names`` that a frozen network computes."""
    losses: dict[str, ImageLoss] = {}
    if "lpips_vgg" in names:
        losses["lpips_vgg"] = load_lpips("vgg")
    if "lpips_alex" in names:
        losses["lpips_alex"] = load_lpips("alex")
    if {"landmark_features", "mesh"} & set(names):
        config = params.section("face_judge", FaceJudgeConfig)
        face = FaceLoss(load_face_judge(config))
        losses["landmark_features"] = FaceTerm(face, "landmark", config.landmark_factor)
        losses["mesh"] = FaceTerm(face, "mesh", config.dense_factor)
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
        with torch.no_grad(), torch.autocast(target.device.type, enabled=False):
            scores: Tensor = mesh(torch.cat([reconstruction, target]).float()).score
        return (scores >= min_score).reshape(2, -1).all(dim=0)

    return seen


def judged_by(params: Params) -> list[str]:
    """What the losses look through, as text for a fingerprint: other judges make another training."""
    face = params.section("face_judge", FaceJudgeConfig)
    identity = params.section("identity_loss", IdentityJudgeConfig)
    named = [path for path in (face.fan_weights, face.ddfa_weights, identity.arcface_weights) if path]
    return [repr(face), repr(identity), nets_sha256(*JUDGING), *(named_sha256(Path(path)) for path in named)]
