"""BiSeNet face parsing (Yu et al. 2018; the weights of face-parsing.PyTorch): 19 classes of CelebAMask-HQ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.perception.parsing import Regions
from modules.perception.state import build_with_state, read_state

CLASSES = (
    "background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "left_ear", "right_ear",
    "earring", "nose", "mouth", "upper_lip", "lower_lip", "neck", "necklace", "cloth", "hair", "hat",
)  # fmt: skip
_FACE = (
    "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses",
    "nose", "mouth", "upper_lip", "lower_lip",
)  # fmt: skip
_HEAD = (*_FACE, "left_ear", "right_ear", "earring", "hair", "hat")
_INPUT = 512
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _ConvUnit(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int = 3, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, 1, padding, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class _BasicBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = (
            nn.Identity()
            if channels == out and stride == 1
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(self.downsample(x) + y)


class _ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_BasicBlock(64, 64, 1), _BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(_BasicBlock(64, 128, 2), _BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(_BasicBlock(128, 256, 2), _BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(_BasicBlock(256, 512, 2), _BasicBlock(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class _AttentionRefinement(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = _ConvUnit(channels, out)
        self.conv_atten = nn.Conv2d(out, out, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y * torch.sigmoid(self.bn_atten(self.conv_atten(y.mean(dim=(2, 3), keepdim=True))))


class _ContextPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = _ResNet18()
        self.arm16 = _AttentionRefinement(256, 128)
        self.arm32 = _AttentionRefinement(512, 128)
        self.conv_head32 = _ConvUnit(128, 128)
        self.conv_head16 = _ConvUnit(128, 128)
        self.conv_avg = _ConvUnit(512, 128, 1, 0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eighth, sixteenth, thirty_second = self.resnet(x)
        whole = self.conv_avg(thirty_second.mean(dim=(2, 3), keepdim=True))
        up = functional.interpolate(self.arm32(thirty_second) + whole, size=sixteenth.shape[2:])
        at16 = self.conv_head32(up)
        up = functional.interpolate(self.arm16(sixteenth) + at16, size=eighth.shape[2:])
        return eighth, self.conv_head16(up), at16


class _FeatureFusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convblk = _ConvUnit(256, 256, 1, 0)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.convblk(torch.cat([spatial, context], dim=1))
        gate = torch.sigmoid(self.conv2(functional.relu(self.conv1(x.mean(dim=(2, 3), keepdim=True)))))
        return x * gate + x


class _Head(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv = _ConvUnit(channels, hidden)
        self.conv_out = nn.Conv2d(hidden, len(CLASSES), 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv_out(self.conv(x))
        return logits


class BiSeNet(nn.Module):
    """Context path of a ResNet-18, fused with its features at an eighth of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.cp = _ContextPath()
        self.ffm = _FeatureFusion()
        self.conv_out = _Head(256, 256)
        # Two heads for training only; the published file holds them.
        self.conv_out16 = _Head(128, 64)
        self.conv_out32 = _Head(128, 64)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> BiSeNet:
        """Build from ``79999_iter.pth``'s bare state dict; raises ``BadInputError`` for another file's."""
        return build_with_state(cls, state, "BiSeNet face parsing")

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)``, ImageNet-normalised, sides multiples of 32, to logits ``(N, 19, H, W)``."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % 32 or images.shape[3] % 32:
            raise ValueError(f"BiSeNet takes (N, 3, H, W) with sides in 32s, got {tuple(images.shape)}")
        spatial, context, _ = self.cp(images)
        logits = self.conv_out(self.ffm(spatial, context))
        return functional.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=True)

    def probabilities(self, images: Tensor) -> Tensor:
        """FFHQ-aligned RGB ``(N, 3, H, W)`` in [-1, 1] to ``(N, 19, H, W)``, summing to 1 over ``CLASSES``."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
        mean, std = (images.new_tensor(c).view(1, 3, 1, 1) for c in (_IMAGENET_MEAN, _IMAGENET_STD))
        resized = functional.interpolate(images, size=(_INPUT, _INPUT), mode="bilinear", antialias=True)
        logits = self((resized / 2 + 0.5 - mean) / std)
        logits = functional.interpolate(logits, size=images.shape[2:], mode="bilinear", antialias=True)
        return logits.softmax(dim=1)

    def regions(self, images: Tensor, mesh_points: Tensor | None = None) -> Regions:
        """As ``FaceParser.regions``; glasses belong to the face, ears to the head.

        The classes name eyes, brows, lips and nose themselves: the mesh's points have nothing to add.
        """
        del mesh_points
        shares = self.probabilities(images)
        return Regions(*(_sum(shares, classes) for classes in (_FACE, _HEAD, ("background",))))


def _sum(shares: Tensor, classes: tuple[str, ...]) -> Tensor:
    return shares[:, [CLASSES.index(name) for name in classes]].sum(1, keepdim=True).clamp(0, 1)


def load_bisenet(weights: Path, device: str = "cpu") -> BiSeNet:
    """Read ``79999_iter.pth``; raises ``BadInputError`` for another file."""
    return BiSeNet.from_state(read_state(weights)).to(device)
