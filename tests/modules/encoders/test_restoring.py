"""What a task's input keeps, and an encoder of which only the entry is its own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.types import BadInputError
from modules.encoders.restoring import (
    TASKS,
    RestoringEncoder,
    Task,
    copy_of,
    degrade,
    load_restoring_encoder,
    save_restoring_encoder,
)
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, sighted
from modules.model_folder import load_model, save_model, weights_sha256

SMALL = FrameEncoderConfig(
    image_size=32, stem_channels=(16, 32), width=32, depth=2, heads=2, thumbnail=4, told_width=0
)
GENERATOR = "a" * 64
ROWS, DIM = 6, 8


def stirred(module: torch.nn.Module, seed: int) -> None:
    """Give every parameter that learns values of its own."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))


@pytest.fixture
def first() -> FrameEncoder:
    torch.manual_seed(0)
    encoder = FrameEncoder(SMALL, ROWS, torch.randn(DIM), torch.eye(DIM)).eval()
    stirred(encoder, 1)
    return encoder


def learned(first: FrameEncoder, task: Task) -> RestoringEncoder:
    encoder = RestoringEncoder(task, copy_of(first)).eval()
    stirred(encoder, 2)
    return encoder


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize("task", TASKS)
def test_degrading_is_linear(frames, task) -> None:
    a, b = frames[:1], frames[1:2]
    both = degrade(0.3 * a - 1.7 * b, task, 3.0)
    torch.testing.assert_close(both, 0.3 * degrade(a, task, 3.0) - 1.7 * degrade(b, task, 3.0), rtol=0, atol=1e-5)
    flat = torch.full_like(a, 0.4)
    torch.testing.assert_close(degrade(flat, task), flat, rtol=0, atol=1e-6)
    assert (degrade(a, task) - a).abs().mean() > 0.1


def test_grey_is_the_luma_and_stays_grey(frames) -> None:
    grey = degrade(frames, "colourise")
    expected = 0.299 * frames[:, 0] + 0.587 * frames[:, 1] + 0.114 * frames[:, 2]
    for channel in range(3):
        torch.testing.assert_close(grey[:, channel], expected)
    torch.testing.assert_close(degrade(grey, "colourise"), grey)
    lack = frames - grey
    assert degrade(lack, "colourise").abs().max() < 1e-6, "what is lacking has no luma"


def test_reducing_is_pillows_bicubic() -> None:
    """Pillow's kernel is a = -0.5, as torch's with antialiasing; that of enlarging is -0.75, as OpenCV's."""
    smooth = np.random.default_rng(0).normal(size=(9, 9, 3)).astype(np.float32)
    image = cv2.resize(smooth, (64, 64), interpolation=cv2.INTER_CUBIC)
    small = np.stack([np.asarray(Image.fromarray(c).resize((16, 16), Image.Resampling.BICUBIC)) for c in
                      np.moveaxis(image, 2, 0)], axis=2)  # fmt: skip
    expected = cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC)
    got = degrade(torch.from_numpy(image).permute(2, 0, 1)[None], "enlarge", 4.0)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_a_factor_of_one_keeps_everything_and_a_larger_one_keeps_less(frames) -> None:
    torch.testing.assert_close(degrade(frames, "enlarge", 1.0), frames, rtol=0, atol=1e-5)
    lost = [float((degrade(frames, "enlarge", f) - frames).square().mean()) for f in (1.0, 2.0, 4.0, 8.0)]
    assert lost == sorted(lost) and lost[1] > 10 * lost[0]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 16)])
def test_what_is_no_square_of_three_channels_is_refused(shape) -> None:
    with pytest.raises(ValueError, match="must be"):
        degrade(torch.zeros(shape), "colourise")


def test_colours_are_not_looked_at_and_lines_are(first, frames) -> None:
    grey, large = learned(first, "colourise"), learned(first, "enlarge")
    torch.testing.assert_close(grey(frames)[0], grey(degrade(frames, "colourise"))[0])
    assert (large(frames)[0] - large(degrade(frames, "enlarge"))[0]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="no task 'sharpen'"):
        RestoringEncoder("sharpen", copy_of(first))  # type: ignore[arg-type]


@pytest.mark.parametrize("told", [False, True])
def test_only_the_entry_learns_and_is_kept(first, tmp_path, told) -> None:
    first = sighted(first, 4) if told else first
    encoder = learned(first, "colourise")
    own, before = encoder.entry(), first.state_dict()
    for name, value in encoder.net.state_dict().items():
        assert torch.equal(value, before[name]) != (name in own), name
    assert any(name.startswith("told_") for name in own) == told
    assert not any(name.startswith(("blocks.", "head.", "w_")) for name in own)
    folder = save_restoring_encoder(tmp_path / "made", encoder, first, GENERATOR, "A card.")
    assert load_model(folder).tensors.keys() == own.keys()


def test_saved_and_loaded_it_answers_the_same_and_the_trunk_is_frens_to_the_bit(first, frames, tmp_path) -> None:
    encoder = learned(first, "enlarge")
    extra = {"steps": 7}
    folder = save_restoring_encoder(tmp_path / "made", encoder, first, GENERATOR, "A card.", extra)
    loaded = load_restoring_encoder(folder, first, GENERATOR)
    assert loaded.task == "enlarge" and load_model(folder).config["steps"] == 7
    torch.testing.assert_close(loaded(frames)[0], encoder(frames)[0], rtol=0.02, atol=0.02)
    assert (loaded(frames)[0] - first(frames)[0]).abs().max() > 0.1
    for name, value in loaded.net.state_dict().items():
        assert name in loaded.entry() or torch.equal(value, first.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert first.stem is not loaded.net.stem, "FrEN itself goes on as it was"


def test_another_generator_and_another_frame_encoder_are_refused_with_both_hashes(first, tmp_path) -> None:
    ours = weights_sha256(first.state_dict())
    folder = save_restoring_encoder(tmp_path / "made", learned(first, "enlarge"), first, GENERATOR, "A card.")
    with pytest.raises(BadInputError, match=rf"{GENERATOR}.*{'b' * 64}"):
        load_restoring_encoder(folder, first, "b" * 64)
    stirred(first, 9)
    with pytest.raises(BadInputError, match=rf"{ours}.*{weights_sha256(first.state_dict())}.*train enlarger"):
        load_restoring_encoder(folder, first, GENERATOR)


def test_a_folder_that_is_not_whole_is_refused(first, tmp_path: Path) -> None:
    folder = save_restoring_encoder(tmp_path / "made", learned(first, "enlarge"), first, GENERATOR, "A card.")
    model = load_model(folder)
    kept = dict(list(model.tensors.items())[1:])
    with pytest.raises(BadInputError, match="damaged"):
        load_restoring_encoder(save_model(tmp_path / "less", model.config, kept, ""), first, GENERATOR)
    other = {**model.config, "task": "sharpen"}
    with pytest.raises(BadInputError, match="'sharpen'; there are colourise, enlarge"):
        load_restoring_encoder(save_model(tmp_path / "other", other, model.tensors, ""), first, GENERATOR)
