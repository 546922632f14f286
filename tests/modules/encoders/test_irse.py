"""pSp, e4e and ReStyle: the published networks' answers, and the loop around them in closed form."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conformance_cases import assert_close, case, fill_image, tensors
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.encoders.irse import PublishedEncoder, StyleEncoder, encoder_from_checkpoint, load_encoder
from modules.generators.protocol import StyleLayer

ROWS_OF_16 = [*range(15), 17]


class FlatGenerator:
    """Shows codes as an image of one colour, their mean; its mean code is 0.25 everywhere."""

    w_dim = 512
    w_mean = torch.full((512,), 0.25)

    def __init__(self, rows: int) -> None:
        self.num_ws = rows
        self.layers = (StyleLayer("first", 4, 512, 0, False),)

    def synthesize(self, ws: Tensor) -> Tensor:
        assert ws.shape[1:] == (self.num_ws, 512)
        return ws.mean(dim=(1, 2)).view(-1, 1, 1, 1).expand(-1, 3, 1024, 1024)


@pytest.mark.parametrize(("kind", "channels"), [("psp", 3), ("e4e", 3), ("restyle-e4e", 6)])
def test_network_answers_as_published(kind: Any, channels: int) -> None:
    opened = case(f"{kind}-ffhq-1024-encoder")
    net = StyleEncoder.from_state(tensors(opened), kind)
    image = torch.from_numpy(fill_image("image", (1, channels, 256, 256), opened.seed))
    assert_close(net(image), opened.tensor("latents"))


class MeanDifference(nn.Module):
    """Stands for a ReStyle network: each row is a tenth of how much brighter the image is than what is shown."""

    kind = "restyle-e4e"
    styles = range(18)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (6, 256, 256)
        difference = x[:, :3].mean(dim=(1, 2, 3)) - x[:, 3:].mean(dim=(1, 2, 3))
        return 0.1 * difference[:, None, None].expand(-1, 18, 512)


@pytest.mark.parametrize("rows", [16, 18])
@pytest.mark.parametrize("steps", [1, 3])
def test_restyle_adds_what_is_missing_step_by_step(rows: int, steps: int) -> None:
    mean = torch.full((18, 512), 0.5)
    encoder = PublishedEncoder(MeanDifference(), mean, FlatGenerator(rows), steps)  # type: ignore[arg-type]
    frames = torch.tensor([0.9, -0.3]).view(2, 1, 1, 1).expand(2, 3, 256, 256)
    ws, state = encoder(frames)
    assert state is None
    for n, bright in enumerate((0.9, -0.3)):
        code = 0.5
        for _ in range(steps):
            code += 0.1 * (bright - code)
        torch.testing.assert_close(ws[n], torch.full((rows, 512), code))


class RowNumbers(nn.Module):
    """Stands for an e4e network: each row of the codes holds its own number."""

    kind = "e4e"
    styles = range(18)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 256, 256)
        return torch.arange(18.0).view(1, 18, 1).expand(len(x), 18, 512)


def test_rows_are_those_of_the_generator() -> None:
    mean = torch.zeros(18, 512)
    for rows, wanted in ((18, list(range(18))), (16, ROWS_OF_16)):
        encoder = PublishedEncoder(RowNumbers(), mean, FlatGenerator(rows), 1)  # type: ignore[arg-type]
        ws, _ = encoder(torch.zeros(2, 3, 300, 300))
        assert ws[1, :, 0].tolist() == wanted
    with pytest.raises(BadInputError, match="18 rows"):
        PublishedEncoder(RowNumbers(), mean, FlatGenerator(14), 1)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """An e4e network of two rows; its other figures are the published ones."""
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in StyleEncoder("e4e", 2, 3).state_dict().items()}
    # A tenth keeps the random network's activations of ordinary size.
    return {
        name: torch.ones(shape) if name.endswith("running_var") else torch.randn(shape) * 0.1
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }


def checkpoint(weights: dict[str, Tensor], **options: Any) -> dict[str, Any]:
    return {
        "state_dict": {f"encoder.{name}": value for name, value in weights.items()}
        | {"decoder.x": torch.zeros(1)},
        "opts": {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True, **options},
        "latent_avg": torch.arange(512.0),
    }


@pytest.mark.parametrize("shape", [(512,), (1, 512), (2, 512)])
def test_mean_code_comes_in_three_shapes(weights: dict[str, Tensor], shape: tuple[int, ...]) -> None:
    given = checkpoint(weights)
    given["latent_avg"] = torch.arange(512.0).expand(shape) * 3
    mean = encoder_from_checkpoint(given, FlatGenerator(2), 1).mean  # type: ignore[arg-type]
    assert torch.equal(mean, (torch.arange(512.0) * 3).expand(2, 512))


def test_mean_code_is_the_generators_or_nothing_where_the_file_says_so(weights: dict[str, Tensor]) -> None:
    given = checkpoint(weights)
    del given["latent_avg"]
    assert encoder_from_checkpoint(given, FlatGenerator(2), 1).mean.unique().tolist() == [0.25]  # type: ignore[arg-type]
    without = checkpoint(weights, start_from_latent_avg=False)
    assert encoder_from_checkpoint(without, FlatGenerator(2), 1).mean.unique().tolist() == [0.0]  # type: ignore[arg-type]


def test_file_with_options_of_any_kind_is_read(weights: dict[str, Tensor], tmp_path: Path) -> None:
    given = checkpoint(weights)
    given["opts"] = argparse.Namespace(**given["opts"], exp_dir=Path("somewhere"), lr=1e-4)
    torch.save(given, tmp_path / "e4e.pt")
    encoder = load_encoder(tmp_path / "e4e.pt", FlatGenerator(2), 1)  # type: ignore[arg-type]
    image = torch.from_numpy(fill_image("image", (1, 3, 256, 256), 0))
    ws, _ = encoder(image)
    alone = StyleEncoder.from_state(weights, "e4e")(image)
    torch.testing.assert_close(ws, alone + torch.arange(512.0))
    assert alone.std() > 1e-4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("opts"), "opts"),
        (lambda c: c["opts"].update(encoder_type="ResNetEncoder"), "ResNetEncoder"),
        (lambda c: c["state_dict"].clear(), "input_layer or styles"),
        (lambda c: c["state_dict"].pop("encoder.body.5.res_layer.1.weight"), "body.5.res_layer.1.weight"),
        (lambda c: c["opts"].update(encoder_type="ProgressiveBackboneEncoder"), "latlayer1"),
        (lambda c: c.update(latent_avg=torch.zeros(3, 512)), "latent_avg"),
    ],
)
def test_other_files_are_refused_in_one_line(weights: dict[str, Tensor], change: Any, said: str) -> None:
    given = checkpoint(weights)
    change(given)
    with pytest.raises(BadInputError, match=said) as raised:
        encoder_from_checkpoint(given, FlatGenerator(2), 1)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_namespace_stands_for_a_dict(weights: dict[str, Tensor]) -> None:
    given = checkpoint(weights)
    given["opts"] = SimpleNamespace(**given["opts"])
    assert encoder_from_checkpoint(given, FlatGenerator(2), 1).net.kind == "e4e"  # type: ignore[arg-type]
