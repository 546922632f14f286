"""LPIPS against figures of lpips-jax 0.1.0 run in jax, which shares no code with torch."""

import pickle

import numpy as np
import pytest
import torch

from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.losses.perceptual import load_lpips, read_flax_pickle

JAX = {"vgg": (0.141839, 0.517716), "alex": (0.059254, 0.310381)}
"""Two pairs below, by ``LPIPSEvaluator(replicate=False, net=...)``."""


@pytest.fixture(scope="module", params=sorted(JAX))
def named(request):
    return request.param, load_lpips(request.param)


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    y, x = np.mgrid[0:64, 0:64] / 64
    a = [np.stack([np.sin(6 * x + k), np.cos(5 * y * x + k), np.sin(9 * y + k)]) for k in (0, 1)]
    b = [np.stack([np.sin(7 * x + k), np.cos(5 * y * x - k), np.sin(8 * y + k)]) for k in (0, 1)]
    return torch.tensor(np.stack(a)).float(), torch.tensor(np.stack(b)).float()


def test_figures_are_those_of_the_jax_port(named):
    name, loss = named
    assert loss(*pairs()).tolist() == pytest.approx(JAX[name], abs=2e-5)


def test_kept_features_and_full_masks_change_nothing(named):
    _, loss = named
    images, target = pairs()
    expected = loss(images, target)
    assert torch.allclose(loss(images, loss.features(target)), expected)
    assert torch.allclose(loss(images, target, torch.ones(2, 1, 64, 64)), expected, atol=1e-6)
    assert loss(images, images).abs().max() == 0


def test_a_mask_looks_away(named):
    _, loss = named
    images, _ = pairs()
    target = images.clone()
    target[:, :, :, 40:] = 0
    mask = torch.zeros(2, 1, 64, 64)
    mask[..., :8] = 1
    whole = loss(images, target)
    # The deeper layers see past the edge of the mask, so little is left rather than nothing.
    assert (loss(images, target, mask) < 0.5 * whole).all()
    assert (loss(images, target, 1 - mask) > whole).all()


def test_gradients_reach_the_image_and_nothing_else(named):
    _, loss = named
    images, target = pairs()
    images[0] = -0.03  # flat: whole columns of features are zero there
    images.requires_grad_()
    loss.train()(images, target).sum().backward()
    assert images.grad is not None and torch.isfinite(images.grad).all() and images.grad[1].abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())
    assert not any(m.training for m in loss.modules())


def test_pickles_that_ask_for_more_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("executed",)

    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({"params": Trap()}))
    with pytest.raises(BadInputError, match="print"):
        read_flax_pickle(tmp_path / "x.ckpt")
    (tmp_path / "y.ckpt").write_bytes(pickle.dumps({"a": {"b": np.ones(3, np.float32)}}))
    assert read_flax_pickle(tmp_path / "y.ckpt")["a/b"].tolist() == [1, 1, 1]
    (tmp_path / "z.ckpt").write_bytes(pickle.dumps({"a": "text"}))
    with pytest.raises(BadInputError, match="'a'"):
        read_flax_pickle(tmp_path / "z.ckpt")


def test_backbone_arrays_are_all_read():
    arrays = read_flax_pickle(asset_path("lpips-backbones", "vgg16.ckpt"))
    assert sum(name.endswith("kernel") for name in arrays) == 13 + 5


def test_wrong_shapes_and_names_are_refused(named):
    _, loss = named
    with pytest.raises(ValueError, match="px"):
        loss(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="differ in size"):
        loss(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 96, 96))
    with pytest.raises(BadInputError, match="alex"):
        load_lpips("squeeze")  # type: ignore[arg-type]
