"""Each operation against SciPy, a closed form, or the definition written out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modules.ops import (
    bias_act,
    filtered_lrelu,
    haar_order,
    inverse_haar,
    luma,
    modulated_conv2d,
    move_image,
    shrink,
    upfirdn2d,
)


def by_definition(
    x: np.ndarray, f: np.ndarray, up: int, down: int, padding: tuple[int, ...], flip: bool
) -> np.ndarray:
    if f.ndim == 1:
        f = np.outer(f, f)
    if flip:
        f = f[::-1, ::-1]
    enlarged = np.zeros((x.shape[0] * up, x.shape[1] * up))
    enlarged[::up, ::up] = x
    left, right, top, bottom = padding
    enlarged = np.pad(enlarged, ((max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))))
    enlarged = enlarged[max(-top, 0) : len(enlarged) - max(-bottom, 0)]
    enlarged = enlarged[:, max(-left, 0) : enlarged.shape[1] - max(-right, 0)]
    return scipy.signal.convolve2d(enlarged, f, mode="valid")[::down, ::down]


@settings(max_examples=60)
@given(
    shape=st.sampled_from([(1,), (4,), (5,), (4, 4), (3, 5)]),
    up=st.integers(1, 4),
    down=st.integers(1, 3),
    padding=st.tuples(*[st.integers(-2, 5)] * 4),
    flip=st.booleans(),
    seed=st.integers(0, 999),
)
def test_upfirdn2d_is_what_scipy_says(
    shape: tuple[int, ...], up: int, down: int, padding: tuple[int, int, int, int], flip: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 10, 9, generator=generator, dtype=torch.float64)
    f = torch.randn(shape, generator=generator, dtype=torch.float64)
    got = upfirdn2d(x, f, up, down, padding, gain=3.0, flip=flip)
    wanted = 3.0 * by_definition(x[1, 2].numpy(), f.numpy(), up, down, padding, flip)
    np.testing.assert_allclose(got[1, 2].numpy(), wanted, atol=1e-12)


def test_upfirdn2d_without_a_filter_inserts_zeros() -> None:
    x = torch.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    wanted = torch.tensor([[1.0, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]) * 4
    torch.testing.assert_close(upfirdn2d(x, None, up=2, gain=4.0), wanted[None, None])


def test_upfirdn2d_gradients() -> None:
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    f = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: upfirdn2d(a, b, 2, 1, (2, 1, 2, 1), 4.0), (x, f))
    assert torch.autograd.gradcheck(lambda a, b: upfirdn2d(a, b, 1, 2, (1, 1, 1, 1)), (x, f))


@pytest.mark.parametrize("arguments", [{"up": 0}, {"down": 0}])
def test_upfirdn2d_refuses_factors_below_one(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="factors from 1"):
        upfirdn2d(torch.zeros(1, 1, 4, 4), None, **arguments)


def test_filtered_lrelu_is_its_steps_and_blocks_change_nothing() -> None:
    torch.manual_seed(0)
    x, b = torch.randn(2, 5, 8, 8, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    fu, fd = torch.randn(6, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    padding = (3, 2, 1, 4)
    got = filtered_lrelu(x, fu, fd, b, up=2, down=2, padding=padding, gain=1.7, slope=0.3, clamp=1.0)
    enlarged = 4.0 * by_definition((x[1, 4] + b[4]).numpy(), fu.numpy(), 2, 1, padding, False)
    bent = np.clip(1.7 * np.where(enlarged < 0, 0.3 * enlarged, enlarged), -1, 1)
    wanted = by_definition(bent, fd.numpy(), 1, 2, (0, 0, 0, 0), False)
    np.testing.assert_allclose(got[1, 4].numpy(), wanted, atol=1e-12)
    blocked = filtered_lrelu(x, fu, fd, b, 2, 2, padding, 1.7, 0.3, 1.0, channels_per_block=2)
    torch.testing.assert_close(blocked, got)


def test_filtered_lrelu_gradients() -> None:
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)
    fu, fd = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, c: filtered_lrelu(a, fu, fd, c, 2, 2, (2, 1, 2, 1)), (x, b))


def test_bias_act() -> None:
    x = torch.tensor([[-2.0, 1.0], [4.0, -8.0]])
    wanted = torch.tensor([[-0.2, 2.0], [3.0, -1.4]]) * 2
    torch.testing.assert_close(bias_act(x, torch.tensor([1.0, 1.0]), gain=2.0, clamp=6.0), wanted.clamp(-6, 6))


def weights_modulated(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool) -> Tensor:
    """Karras 2020, equations 1 and 3, sample by sample."""
    images = []
    for sample, style in zip(x, styles, strict=True):
        own = weight * style[None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        images.append(F.conv2d(sample[None], own, padding=weight.shape[-1] // 2))
    return torch.cat(images)


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_conv2d_is_convolution_with_modulated_weights(demodulate: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 4, 6, 7).double(), torch.randn(5, 4, 3, 3).double()
    styles = torch.randn(3, 4).double()
    got = modulated_conv2d(x, weight, styles, demodulate, padding=1)
    torch.testing.assert_close(got, weights_modulated(x, weight, styles, demodulate))


def test_modulated_conv2d_upsamples_as_zeros_then_convolution_then_smoothing() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, 5).double(), torch.randn(4, 3, 3, 3).double()
    styles, f = torch.randn(2, 3).double(), torch.tensor([1.0, 3.0, 3.0, 1.0]).double() / 8
    got = modulated_conv2d(x, weight, styles, up=2, padding=1, resample_filter=f)
    enlarged = torch.zeros(2, 3, 10, 10).double()
    enlarged[:, :, ::2, ::2] = x
    # A transposed convolution turns the kernel: this is the true convolution of the paper's code.
    smoothed = weights_modulated(F.pad(enlarged, (2, 2, 2, 2)), weight.flip(2, 3), styles, True)
    square = torch.outer(f, f).expand(4, 1, 4, 4)
    wanted = F.conv2d(smoothed, 4 * square, groups=4)[:, :, :10, :10]
    assert got.shape == (2, 4, 10, 10)
    torch.testing.assert_close(got, wanted)


def test_modulated_conv2d_gradients() -> None:
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    styles = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    f = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    assert torch.autograd.gradcheck(lambda *a: modulated_conv2d(*a, padding=1), (x, weight, styles))
    assert torch.autograd.gradcheck(
        lambda *a: modulated_conv2d(*a, up=2, padding=1, resample_filter=f), (x, weight, styles)
    )


def test_modulated_conv2d_refuses_styles_of_another_batch() -> None:
    with pytest.raises(ValueError, match="differ"):
        modulated_conv2d(torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 3, 3), torch.zeros(1, 3))


def test_inverse_haar_is_the_separable_wavelet() -> None:
    torch.manual_seed(0)
    low, vertical, horizontal, both = torch.randn(4, 2, 3, 5, 4).double()
    mean, step = np.array([1.0, 1.0]) / 2**0.5, np.array([1.0, -1.0]) / 2**0.5
    wanted = sum(
        torch.kron(band, torch.from_numpy(np.outer(rows, columns)))
        for band, rows, columns in (
            (low, mean, mean),
            (vertical, step, mean),
            (horizontal, mean, step),
            (both, step, step),
        )
    )
    bands = torch.cat((low, vertical, horizontal, both), dim=1)
    torch.testing.assert_close(inverse_haar(bands), wanted)
    packed = bands.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(inverse_haar(packed), wanted)
    torch.testing.assert_close(inverse_haar(bands).square().sum(), bands.square().sum())


def test_inverse_haar_gradients_and_shapes() -> None:
    x = torch.randn(1, 8, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(inverse_haar, (x,))
    with pytest.raises(ValueError, match="4C"):
        inverse_haar(torch.zeros(1, 6, 2, 2))


def test_haar_order_gathers_the_published_bands() -> None:
    assert haar_order(12).tolist() == [0, 1, 2, 3, 6, 9, 4, 7, 10, 5, 8, 11]


def test_move_image_moves_by_whole_pixels_and_keeps_the_border() -> None:
    image = torch.randn(2, 3, 8, 8)
    right_down = torch.eye(3)
    right_down[0, 2], right_down[1, 2] = 2 / 8, 1 / 8
    moved = move_image(image, right_down)
    torch.testing.assert_close(moved[:, :, 1:, 2:], image[:, :, :-1, :-2])
    torch.testing.assert_close(moved[:, :, 1:, 0], image[:, :, :-1, 0])


def test_move_image_turns_each_image_by_its_own_angle() -> None:
    image = torch.randn(2, 1, 6, 6)
    # y points down, so this turns clockwise on the screen: x goes to y.
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    moved = move_image(image, torch.stack([torch.eye(3), quarter]))
    torch.testing.assert_close(moved[0], image[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved[1], image[1].rot90(-1, (1, 2)), atol=1e-5, rtol=1e-5)


def test_move_image_refuses_other_matrices() -> None:
    with pytest.raises(ValueError, match="transform must be"):
        move_image(torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 3))


def test_shrink_means_boxes_and_keeps_flat_images_flat() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    torch.testing.assert_close(shrink(image, 2)[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    assert shrink(image, 4) is image
    torch.testing.assert_close(shrink(torch.full((1, 3, 10, 10), 0.7), 7), torch.full((1, 3, 7, 7), 0.7))
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float()[None, None]
    assert (shrink(checks, 30) - 0.5).abs().max() < 0.1, "the checkerboard aliases"


@pytest.mark.parametrize("side", [0, 5])
def test_shrink_refuses_sides_that_do_not_fit(side: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.4"):
        shrink(torch.zeros(1, 1, 4, 4), side)


def test_luma_is_opencvs_grey() -> None:
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = [cv2.cvtColor(one.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY) for one in images]
    np.testing.assert_allclose(luma(images)[:, 0], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="needs"):
        luma(images[:, :2])
