import cv2
import numpy as np
import torch

from datamodules.variation import SofteningConfig, Unsteadiness, VariationConfig, moved, soften, unsteady, vary


def test_softening_blurs_and_keeps_the_mean() -> None:
    board = torch.ones(3, 32, 32)
    board[:, ::2, ::2] = board[:, 1::2, 1::2] = -1.0
    config = SofteningConfig(probability=1.0, smallest_side=8, noise=0.0)
    random = np.random.default_rng(0)
    soft = [soften(board, config, random) for _ in range(8)]
    assert min(image.std().item() for image in soft) < 0.7 * board.std().item()
    assert all(abs(image.mean().item()) < 0.05 for image in soft)
    grain = SofteningConfig(probability=1.0, smallest_side=32, noise=0.5)
    assert max((soften(board * 0, grain, random)).std().item() for _ in range(8)) > 0.1


def test_a_still_moves_as_it_is_told() -> None:
    """A ramp moved by a walk of shifts alone is the ramp, raised by what was walked."""
    ramp = torch.linspace(-0.5, 0.5, 64).expand(3, 64, 64).contiguous()
    walk = np.random.default_rng(5).standard_normal((4, 4))[1:, 0].cumsum() * 0.01
    moved = unsteady(ramp, 4, Unsteadiness(0.01, 0.0, 0.0), np.random.default_rng(5))
    torch.testing.assert_close(moved[0], ramp, atol=1e-5, rtol=0)
    for frame, shift in zip(moved[1:], walk, strict=True):
        inner = (frame - ramp)[:, 8:-8, 8:-8]
        torch.testing.assert_close(inner, torch.full_like(inner, float(shift) * 64 / 63), atol=1e-4, rtol=0)


def test_a_view_is_the_one_that_opencv_takes() -> None:
    """Middle, turn and size against ``cv2.warpAffine`` by the matrix from the view to the image, in pixels."""
    random = np.random.default_rng(1)
    image = cv2.GaussianBlur(random.uniform(-1, 1, (64, 64, 3)).astype(np.float32), (0, 0), 3)
    x, y, turn, zoom = 0.06, -0.03, np.radians(12.0), 0.2
    size, middle = np.exp(zoom), 31.5
    linear = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    offset = middle + 64 * np.array([x, y]) - linear @ [middle, middle]
    matrix = np.column_stack([linear, offset])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    wanted = cv2.warpAffine(image, matrix, (64, 64), flags=flags, borderMode=cv2.BORDER_REFLECT)
    found = moved(
        torch.from_numpy(image).permute(2, 0, 1), torch.tensor([[x, y, turn, zoom]], dtype=torch.float32)
    )[0]
    inside = np.s_[12:52, 12:52]
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy()[inside], wanted[inside], atol=2e-3)


def test_a_varied_image_is_one_affine_change_of_light_per_channel() -> None:
    """Without movement what comes out is gain times image plus one brightness, where nothing is clipped."""
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    out = vary(image, VariationConfig(0.0, 0.0, 0.0, 0.1, 0.05), np.random.default_rng(3))
    x, y = image.flatten(1).numpy(), out.flatten(1).numpy()
    fits = [np.polyfit(a, b, 1, full=True) for a, b in zip(x, y, strict=True)]
    assert max(float(residual[0]) for _, residual, *_ in fits) < 1e-9
    gains, offsets = zip(*(fit[0] for fit in fits), strict=True)
    np.testing.assert_allclose(offsets, offsets[0], atol=1e-6)
    assert len({round(float(gain), 4) for gain in gains}) == 3


def test_variation_moves_by_what_it_says_and_stays_in_range() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(3, 64, 64).contiguous()
    random = np.random.default_rng(0)
    shifts = [
        (vary(ramp, VariationConfig(0.02, 0.0, 0.0, 0.0, 0.0), random) - ramp)[0, 32, 32].item()
        for _ in range(200)
    ]
    # A shift by a share s of the side moves a ramp from -1 to 1 by 2 s.
    assert abs(np.std(shifts) / (2 * 0.02) - 1) < 0.2
    bright = vary(ramp, VariationConfig(0.0, 2.0, 0.1, 1.0, 0.5), random)
    assert bright.abs().max() <= 1


def test_no_variation_gives_the_image_itself() -> None:
    image = torch.rand(3, 8, 8)
    assert vary(image, VariationConfig(0.0, 0.0, 0.0, 0.0, 0.0), np.random.default_rng(0)) is image
