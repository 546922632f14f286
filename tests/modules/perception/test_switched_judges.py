"""The papers' parser and identity net in the places of those from a registry, as params.yaml switches them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.types import BadInputError
from modules.losses.face import IdentityLoss
from modules.perception.arcface import ArcFace
from modules.perception.bisenet import CLASSES, BiSeNet
from modules.perception.identity import IdentityNet
from modules.perception.identity_judge import IdentityJudgeConfig, load_identity_judge
from modules.perception.parsing import CLASSES as SELFIE
from modules.perception.parsing import FaceParser
from modules.perception.region import ParsingConfig, load_region_parser
from services.settings import load_params

OUTSIDE_FACE = {"background", "left_ear", "right_ear", "earring", "neck", "necklace", "cloth", "hair", "hat"}
OUTSIDE_HEAD = {"background", "neck", "necklace", "cloth"}


def test_as_shipped_both_are_those_of_a_registry() -> None:
    params = load_params(environment={})
    assert isinstance(load_region_parser(params.section("parsing", ParsingConfig)), FaceParser)
    judge = load_identity_judge(params.section("identity_loss", IdentityJudgeConfig))
    assert isinstance(judge, IdentityNet)


def test_each_class_of_bisenet_is_in_or_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture per class, all of it that class."""
    with torch.device("meta"):
        net = BiSeNet()
    pictures = torch.eye(len(CLASSES))[:, :, None, None].expand(-1, -1, 2, 2)
    monkeypatch.setattr(net, "probabilities", lambda images: pictures)
    all_but_background = set(CLASSES) - {"background"}
    for mask, outside in zip(net.regions(pictures), (OUTSIDE_FACE, OUTSIDE_HEAD, all_but_background), strict=True):
        assert mask.shape == (len(CLASSES), 1, 2, 2)
        assert {name for name, inside in zip(CLASSES, mask[:, 0, 0, 0], strict=True) if not inside} == outside


def test_the_head_of_the_registrys_parser_is_three_of_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = load_region_parser(ParsingConfig("selfie", ""))
    pictures = torch.eye(len(SELFIE))[:, :, None, None].expand(-1, -1, 2, 2)
    monkeypatch.setattr(FaceParser, "forward", lambda self, images: pictures)
    face, head, background = (
        {name for name, inside in zip(SELFIE, mask[:, 0, 0, 0], strict=True) if inside}
        for mask in parser.regions(pictures)
    )
    assert face == {"face skin"} and head == {"hair", "face skin", "other"} and background == {"background"}


def test_bisenet_is_read_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(BiSeNet().state_dict(), tmp_path / "79999_iter.pth")
    parser = load_region_parser(ParsingConfig("bisenet", str(tmp_path / "79999_iter.pth")))
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    face, head, _ = parser.regions(images)
    assert face.shape == head.shape == (1, 1, 64, 64)
    assert (face > 0).all() and (face <= head + 1e-6).all() and (head <= 1).all()


def test_the_identity_loss_looks_through_arcface() -> None:
    torch.manual_seed(0)
    loss = IdentityLoss(ArcFace().eval().requires_grad_(False))
    images = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    torch.testing.assert_close(loss(images, images.detach()), torch.zeros(1), atol=1e-5, rtol=0)
    distance = loss(images, -images.detach())
    distance.sum().backward()
    assert distance.item() > 0.01 and images.grad is not None and images.grad.abs().sum() > 0


@pytest.mark.parametrize("path", ["", "none.pth"])
def test_weights_that_are_not_there_are_one_line(tmp_path: Path, path: str) -> None:
    given = str(tmp_path / path) if path else ""
    with pytest.raises(BadInputError, match=r"79999_iter|none\.pth") as raised:
        load_region_parser(ParsingConfig("bisenet", given))
    assert "\n" not in str(raised.value)
    with pytest.raises(BadInputError, match=r"model_ir_se50|none\.pth") as raised:
        load_identity_judge(IdentityJudgeConfig("arcface", given))
    assert "\n" not in str(raised.value)
