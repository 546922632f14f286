"""The expression net against NumPy's own sums, and on frames of a person who begins to smile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from real_faces import calm_and_grinning

from modules.assets import asset_path
from modules.perception.emotion import EMOTIONS, EmotionNet, load_emotion_net, log_odds
from modules.perception.face_api import FACE_IN_FFHQ, MEAN_RGB, read_face_api_weights


@pytest.fixture(scope="module")
def net() -> EmotionNet:
    return load_emotion_net()


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """A still face, and the same person grinning: frames 2 and 40 of a real clip."""
    return calm_and_grinning()


def test_it_sees_a_person_begin_to_smile(net: EmotionNet, frames: torch.Tensor) -> None:
    scores = net(frames).softmax(1)
    assert [EMOTIONS[int(row.argmax())] for row in scores] == ["neutral", "happy"]
    assert scores.max(1).values.min() > 0.8


def test_log_odds_are_those_of_the_scores_and_go_on_where_scores_end(
    net: EmotionNet, frames: torch.Tensor
) -> None:
    logits = net(frames).double()
    for place, emotion in enumerate(EMOTIONS):
        torch.testing.assert_close(log_odds(logits, emotion), torch.logit(logits.softmax(1)[:, place]))
    far = torch.zeros(2, len(EMOTIONS), requires_grad=True)
    far.data[:, 0] = torch.tensor([300.0, 400.0])
    found = log_odds(far, "surprised")
    torch.testing.assert_close(found, torch.tensor([-300.0, -400.0]))
    (slope,) = torch.autograd.grad(found.sum(), far)
    assert (slope[:, EMOTIONS.index("surprised")] == 1).all() and (slope[:, 0] == -1).all()
    with pytest.raises(ValueError, match="bored"):
        log_odds(logits, "bored")


def test_it_computes_what_numpy_computes(net: EmotionNet, frames: torch.Tensor) -> None:
    weights = read_face_api_weights(
        asset_path("face-api", "face_expression_model-weights_manifest.json"),
        asset_path("face-api", "face_expression_model.bin"),
    )
    left, top, side = FACE_IN_FFHQ
    cut = frames[
        :1, :, round(top * 256) : round((top + side) * 256), round(left * 256) : round((left + side) * 256)
    ]
    small = torch.nn.functional.interpolate(cut, (112, 112), mode="bilinear", antialias=True)
    x = ((small[0].permute(1, 2, 0).double().numpy() + 1) * 127.5 - np.array(MEAN_RGB)) / 255

    def patches(x: NDArray[np.float64], stride: int) -> NDArray[np.float64]:
        """``(h, w, 3, 3, C)`` as TensorFlow's SAME has it."""
        pad = (1, 1) if stride == 1 else (0, 1)
        padded = np.pad(x, (pad, pad, (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::stride, ::stride]
        return view.transpose(0, 1, 3, 4, 2)

    def convolve(x: NDArray[np.float64], name: str, stride: int = 1) -> NDArray[np.float64]:
        seen, bias = patches(x, stride), weights[f"{name}/bias"]
        if f"{name}/filters" in weights:
            return np.einsum("hwijc,ijcd->hwd", seen, weights[f"{name}/filters"]) + bias
        deep = np.einsum("hwijc,ijc->hwc", seen, weights[f"{name}/depthwise_filter"][..., 0])
        return deep @ weights[f"{name}/pointwise_filter"][0, 0] + bias

    for block in range(4):
        total = np.maximum(convolve(x, f"dense{block}/conv0", 2), 0)
        for layer in (1, 2, 3):
            total = total + convolve(np.maximum(total, 0), f"dense{block}/conv{layer}")
        x = np.maximum(total, 0)
    logits = x.mean((0, 1)) @ weights["fc/weights"] + weights["fc/bias"]
    np.testing.assert_allclose(net(frames[:1])[0].numpy(), logits, rtol=1e-3, atol=1e-3)


def test_it_has_a_gradient_and_refuses_other_shapes(net: EmotionNet, frames: torch.Tensor) -> None:
    images = frames[:1].clone().requires_grad_()
    net(images)[0, EMOTIONS.index("happy")].backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="takes"):
        net(frames[0])
