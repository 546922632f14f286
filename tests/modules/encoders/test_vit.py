from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.linear_model import Ridge

from datamodules.types import BadInputError
from modules.encoders.vit import (
    FrameEncoder,
    FrameEncoderConfig,
    load_frame_encoder,
    save_frame_encoder,
    w_statistics,
)

SMALL = FrameEncoderConfig(image_size=32, stem_channels=(16, 32), width=32, depth=2, heads=2, thumbnail=4)
GENERATOR = "a" * 64


@pytest.fixture
def encoder() -> FrameEncoder:
    torch.manual_seed(0)
    return FrameEncoder(SMALL, 6, torch.randn(8), torch.eye(8)).eval()


def test_w_statistics_agree_with_scipy() -> None:
    w = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 6)
    mean, basis = w_statistics(w)
    np.testing.assert_allclose(mean, w.numpy().mean(0), atol=1e-5)
    np.testing.assert_allclose(basis, sqrtm(np.cov(w.numpy().T)), rtol=1e-3, atol=1e-3)


def test_the_linear_start_is_ridge_regression(encoder: FrameEncoder) -> None:
    generator = torch.Generator().manual_seed(2)
    frames = torch.rand(200, 3, 32, 32, generator=generator) * 2 - 1
    frames = torch.nn.functional.interpolate(frames[..., ::8, ::8], size=32)
    thumbnails = encoder.thumbnails(frames)
    ws = (thumbnails @ torch.randn(48, 48, generator=generator)).unflatten(1, (6, 8)) + 3.0
    wide = FrameEncoder(replace(SMALL, width=48), 6, encoder.w_mean, encoder.w_basis).eval()
    wide.start_linear(thumbnails, ws, ridge=0.1)
    model = Ridge(alpha=0.1 * len(ws)).fit(thumbnails.numpy(), ws.flatten(1).numpy())
    fresh = frames.flip(-1)
    expected = model.predict(wide.thumbnails(fresh).numpy())
    np.testing.assert_allclose(wide(fresh)[0].flatten(1).detach(), expected, rtol=1e-3, atol=1e-2)


def test_a_head_of_zeros_answers_the_mean_face(encoder: FrameEncoder) -> None:
    torch.nn.init.zeros_(encoder.head.weight)
    ws, state = encoder(torch.rand(3, 3, 32, 32))
    assert state is None
    torch.testing.assert_close(ws, encoder.w_mean.expand(3, 6, 8))


def test_each_image_is_encoded_on_its_own(encoder: FrameEncoder) -> None:
    frames = torch.rand(3, 3, 32, 32) * 2 - 1
    together, _ = encoder(frames)
    torch.testing.assert_close(together[1:2], encoder(frames[1:2])[0], rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_it_learns_what_a_linear_map_of_the_image_says(encoder: FrameEncoder) -> None:
    """Codes that follow from the image's mean colour are learned within a few steps."""
    encoder.train()
    generator = torch.Generator().manual_seed(1)
    colours = torch.rand(64, 3, generator=generator) * 2 - 1
    frames = colours[:, :, None, None].expand(-1, -1, 32, 32)
    target = (colours @ torch.randn(3, 48, generator=generator)).unflatten(1, (6, 8))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (encoder(frames)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_the_folder_answers_what_was_saved(encoder: FrameEncoder, tmp_path) -> None:
    folder = save_frame_encoder(tmp_path / "encoder", encoder, GENERATOR, "A card.", {"steps": 3})
    loaded = load_frame_encoder(folder, GENERATOR)
    frames = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(frames)[0], encoder(frames)[0], rtol=0.01, atol=0.01)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_another_generators_encoder_is_refused_with_both_hashes(encoder: FrameEncoder, tmp_path) -> None:
    folder = save_frame_encoder(tmp_path / "encoder", encoder, GENERATOR, "A card.")
    with pytest.raises(BadInputError, match=rf"{GENERATOR}.*{'b' * 64}"):
        load_frame_encoder(folder, "b" * 64)


def test_shapes_are_checked_where_they_enter(encoder: FrameEncoder) -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\)"):
        encoder(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="multiple"):
        FrameEncoderConfig(image_size=30, stem_channels=(16, 32), width=32, depth=2, heads=2, thumbnail=4)
