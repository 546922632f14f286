"""Fidelity metrics against scikit-image and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from modules.losses.perceptual import load_lpips
from modules.metrics.fidelity import Lpips, Psnr, Ssim, lpips_distance, ms_ssim, psnr, ssim


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    smooth = np.cumsum(random.normal(0, 0.05, (2, 3, 48, 64)), axis=3).clip(-1, 1)
    noisy = (smooth + random.normal(0, 0.1, smooth.shape)).clip(-1, 1)
    return torch.tensor(smooth).float(), torch.tensor(noisy).float()


def test_psnr_and_ssim_are_scikit_images():
    a, b = pair()
    for k in (0, 1):
        x, y = a[k].numpy(), b[k].numpy()
        assert psnr(a, b)[k].item() == pytest.approx(peak_signal_noise_ratio(x, y, data_range=2), abs=1e-3)
        expected = structural_similarity(
            *((light + 1) / 2 for light in (x, y)),
            data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert ssim(a, b)[k].item() == pytest.approx(expected, abs=1e-3)


def test_ms_ssim_is_the_product_of_contrasts_over_five_scales():
    """Wang, Simoncelli and Bovik (2003), eq. 7, in NumPy and SciPy."""
    random = np.random.default_rng(3)
    smooth = gaussian_filter(random.normal(0, 1, (1, 3, 192, 208)), (0, 0, 4, 4)) * 4
    noisy = smooth + gaussian_filter(random.normal(0, 0.3, smooth.shape), (0, 0, 1, 1))
    x, y = smooth.clip(-1, 1), noisy.clip(-1, 1)
    found = ms_ssim(torch.tensor(x).float(), torch.tensor(y).float())

    def mean(values: np.ndarray) -> np.ndarray:
        """Under the window of 11 px, where it lies inside."""
        return gaussian_filter(values, (0, 0, 1.5, 1.5), truncate=3.34)[:, :, 5:-5, 5:-5]

    x, y = (x + 1) / 2, (y + 1) / 2
    c1, c2, product = 0.01**2, 0.03**2, 1.0
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for scale, weight in enumerate(weights):
        mx, my = mean(x), mean(y)
        vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        contrast = (2 * both + c2) / (vx + vy + c2)
        light = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        last = scale == len(weights) - 1
        product *= float((contrast * light if last else contrast).mean()) ** weight
        if not last:
            x, y = (v.reshape(1, 3, v.shape[2] // 2, 2, v.shape[3] // 2, 2).mean((3, 5)) for v in (x, y))
    assert found.shape == (1,)
    assert found.item() == pytest.approx(product, abs=2e-3)
    assert ms_ssim(torch.tensor(smooth).float(), torch.tensor(smooth).float()).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("similarity", [ssim, ms_ssim])
def test_a_grey_that_is_a_little_lighter_is_nearly_the_same(similarity):
    """Eq. 6 of Wang et al. (2004) compares lights from 0 up; mid grey is not none."""
    grey, ratio = torch.zeros(1, 3, 192, 192), (2 * 0.5 * 0.52 + 1e-4) / (0.5**2 + 0.52**2 + 1e-4)
    found = similarity(grey, grey + 0.04).item()
    assert found == pytest.approx(ratio if similarity is ssim else ratio**0.1333, abs=1e-4)


@settings(max_examples=20)
@given(st.floats(0.01, 1.0))
def test_psnr_of_an_even_difference(step):
    value = psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), step))
    assert value.item() == pytest.approx(20 * np.log10(2 / step), abs=1e-3)


def test_values_outside_are_clamped_and_equal_images_are_perfect():
    a, _ = pair()
    assert torch.equal(psnr(a.sign() * 3, a.sign()), torch.full((2,), torch.inf))
    assert torch.allclose(ssim(a, a), torch.ones(2))


def test_a_mask_sees_its_part_only():
    a, _ = pair()
    b = a.clone()
    b[..., 40:] = 0
    mask = torch.zeros(2, 1, 48, 64)
    mask[..., :30] = 1
    assert torch.isinf(psnr(a, b, mask)).all()
    assert torch.allclose(ssim(a, b, mask), torch.ones(2), atol=1e-4)
    ones = torch.ones(2, 1, 48, 64)
    assert torch.allclose(psnr(a, b, ones), psnr(a, b))
    assert (ssim(a, b, 1 - mask) < ssim(a, b, ones)).all()


def test_classes_average_over_images_not_batches():
    a, b = pair()
    for metric, function in ((Psnr(), psnr), (Ssim(), ssim)):
        metric.update(a, b)
        metric.update(a[:1], b[:1])
        values = function(a, b)
        assert metric.compute().item() == pytest.approx((2 * values[0] + values[1]).item() / 3, rel=1e-5)
        assert metric.higher_is_better is True
        metric.reset()
        assert torch.isnan(metric.compute())


def test_lpips_metric_is_the_loss():
    net = load_lpips("alex")
    a, b = pair()
    metric = Lpips(net)
    metric.update(a, b)
    assert metric.compute().item() == pytest.approx(net(a, b).mean().item())
    assert metric.higher_is_better is False
    assert not lpips_distance(net, a.requires_grad_(), b).requires_grad


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
    with pytest.raises(ValueError, match="mask"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
