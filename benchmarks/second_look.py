"""What FrEN misses, and what a second look solved in closed form would gain on validation persons. Prints both.

python benchmarks/second_look.py [--crops 1200] [--samples 3000] [--frames 60]

Wants prepared clips and samples (`stylereel train prepare`, `stylereel train samples`). FrEN's answer is a token
that its head reads all codes from. By ridge regression on renderings, a picture of 32 px is a linear function of
the token, ``x = t @ B + c``; what a rendering lacks, ``r``, then asks for ``B (B'B + lambda)^-1 r`` more of the
token. The rendering that ``r`` is taken from is the whole network's, the linear guess, or a preview: what each
pixel's features after ``b32`` say of its colour, and what the codes say of the rest, both by ridge again.

Only PSNR is looked at; landmarks and identity lose by it (docs/decisions.md), so no encoder looks twice.

A picture costs 0.15 s on two cores: fifteen minutes for the numbers above. Test persons are not looked at; lambda
is chosen on the very frames that are measured, so the gains are a little too good.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.face_video import FaceVideoConfig, FaceVideoDataModule
from datamodules.samples import SampleDataset
from modules.encoders.vit import FrameEncoder, load_frame_encoder
from modules.generators.mobile import MobileStyleGAN
from modules.metrics.fidelity import psnr
from services.console import bars
from services.places import CLIPS, FRAME_ENCODER, SAMPLES
from services.progress import Meter, Report, never
from services.settings import load_params
from services.training.generator import training_generator

SIDE, SIZE = 32, 256
"""Of the thumbnails that the look is solved on, and of the pictures that it is measured on."""
RIDGE = 0.05
"""Of tokens to thumbnails, in units of a token number's variance."""
PREVIEWED = 1000
"""Pictures that the preview is solved from."""
PRINCIPAL, PIXEL_RIDGE, CODE_RIDGE = 64, 0.01, 0.3
"""Directions of W per row that the preview's second part sees, and the ridges of both parts."""
STRENGTHS = (3.0, 6.0, 12.0)
"""Values of lambda that are tried."""
LOOKS = 2


def thumbnails(images: Tensor) -> Tensor:
    """``(N, 3, S, S)`` to ``(N, 3 * 32²)``."""
    return F.adaptive_avg_pool2d(images, SIDE).flatten(1)


def solve(x: Tensor, y: Tensor, ridge: Tensor | float) -> Tensor:
    """Ridge regression ``(N, p)``, ``(N, q)`` to ``(p, q)`` in double precision; ``ridge`` is relative to N."""
    x, y = x.double(), y.double()
    found: Tensor = torch.linalg.solve(
        x.T @ x / len(x) + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y / len(x)
    )
    return found


def mean_psnr(images: Tensor, target: Tensor) -> float:
    """Mean over ``(N, 3, S, S)`` or thumbnails, in dB."""
    if images.ndim == 2:
        images, target = (part.view(-1, 3, SIDE, SIDE).float() for part in (images, target))
    return float(psnr(images, target).mean())


class Looked:
    """What FrEN answers for pictures, and what comes of it: ``tokens`` ``(N, width)``, thumbnails of both."""

    def __init__(self, encoder: FrameEncoder, generator: MobileStyleGAN) -> None:
        self.encoder, self.generator = encoder, generator

    def token(self, images: Tensor) -> Tensor:
        """Pictures ``(N, 3, 256, 256)`` to ``(N, width)``."""
        token: Tensor = self.encoder.blocks(self.encoder.tokens(images))[:, 0] + self.encoder.told(images)
        return token

    def render(self, tokens: Tensor) -> Tensor:
        """Tokens ``(N, width)`` to pictures ``(N, 3, 256, 256)``."""
        return self.generator.synthesize(self.encoder.codes(tokens.float()), resolution=SIZE).float().clamp(-1, 1)

    def at(
        self, pictures: Iterable[Tensor], count: int, what: str, report: Report
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, thumbnails of the pictures, thumbnails of their renderings, ``(N, ...)`` each."""
        meter, found = Meter(what, count, report, never), []
        left = iter(pictures)
        while part := list(islice(left, 8)):
            images = torch.stack(part)
            tokens = self.token(images)
            found.append((tokens, thumbnails(images), thumbnails(self.render(tokens))))
            meter.advance(len(images))
        tokens, seen, rendered = (torch.cat(part) for part in zip(*found, strict=True))
        return tokens, seen, rendered


class Preview:
    """Thumbnails of renderings, guessed from features of 32 px and the codes."""

    def __init__(self, looked: Looked, tokens: Tensor, rendered: Tensor) -> None:
        self.looked = looked
        values, vectors = torch.linalg.eigh(looked.encoder.w_basis.double())
        self.whiten = (vectors / values).flip(1)[:, :PRINCIPAL].float()
        codes = looked.encoder.codes(tokens)
        count, gram, cross = 0, torch.zeros((), dtype=torch.double), torch.zeros((), dtype=torch.double)
        for start in range(0, len(codes), 20):
            pixels = self._pixels(codes[start : start + 20]).double()
            colours = rendered[start : start + 20].view(-1, 3, SIDE * SIDE).transpose(1, 2).reshape(-1, 3)
            gram, cross, count = gram + pixels.T @ pixels, cross + pixels.T @ colours.double(), count + len(pixels)
        self.colour = torch.linalg.solve(
            gram / count + PIXEL_RIDGE * torch.diag(gram.diag() / count), cross / count
        )
        guessed = torch.cat([self._coloured(part) for part in torch.split(codes, 20)])
        self.rest = solve(self._coefficients(codes), rendered.double() - guessed, CODE_RIDGE)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens ``(N, width)`` to ``(N, 3 * 32²)``."""
        codes = self.looked.encoder.codes(tokens.float())
        both: Tensor = self._coloured(codes) + self._coefficients(codes).double() @ self.rest
        return both.clamp(-1, 1)

    def _coloured(self, codes: Tensor) -> Tensor:
        colours: Tensor = self._pixels(codes).double() @ self.colour
        return colours.view(len(codes), SIDE * SIDE, 3).transpose(1, 2).flatten(1)

    def _pixels(self, codes: Tensor) -> Tensor:
        features = torch.cat([self.looked.generator.features(one[None], SIDE) for one in codes])
        pixels = features.flatten(2).transpose(1, 2).flatten(0, 1)
        return torch.cat([pixels, torch.ones(len(pixels), 1)], 1)

    def _coefficients(self, codes: Tensor) -> Tensor:
        away = ((codes - self.looked.encoder.w_mean) @ self.whiten).flatten(1)
        return torch.cat([away, torch.ones(len(away), 1)], 1)


def by_source(names: list[str], values: Tensor) -> dict[str, list[float]]:
    """PSNR of crops by the clip, or the folder of stills, that each is from."""
    found = defaultdict(list)
    for name, value in zip(names, values.tolist(), strict=True):
        found[name].append(value)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual, text in (
        ("crops", 1200, "of training persons"),
        ("samples", 3000, "of the generator"),
        ("frames", 60, "of validation persons"),
    ):
        parser.add_argument(f"--{name}", type=int, default=usual, help=f"how many {text} are looked at")
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    params = load_params()
    generator = training_generator(params)
    if not isinstance(generator, MobileStyleGAN):
        parser.error("it looks at a MobileStyleGAN's features: leave generator.source as it is")
    looked = Looked(load_frame_encoder(FRAME_ENCODER, generator.sha256), generator)
    data = FaceVideoDataModule(CLIPS, params.section("face_video", FaceVideoConfig))
    faces, held_out, samples = data.dataset("train"), data.dataset("val"), SampleDataset(SAMPLES)
    random = torch.Generator().manual_seed(0)
    crops = torch.randperm(len(faces), generator=random)[: asked.crops].tolist()
    frames = [number * len(held_out) // asked.frames for number in range(asked.frames)]
    truth = torch.stack([held_out[i].images for i in frames])
    wanted = min(asked.samples, len(samples))
    with bars() as report:
        val = looked.at(truth, len(truth), "validation persons", report)
        train = looked.at((faces[i].images for i in crops), len(crops), "training crops", report)
        made = looked.at((samples[i].image for i in range(wanted)), wanted, "samples", report)

    found = psnr(*(part.view(-1, 3, SIDE, SIDE) for part in (train[2], train[1])))
    print(f"| crops FrEN has learned from, {SIDE} px | crops | PSNR, dB |\n|---|--:|--:|")
    names = [data.prepared.clips[faces[index].clip].name for index in crops]
    for name, values in sorted(by_source(names, found).items()):
        print(f"| {name} | {len(values)} | {sum(values) / len(values):.1f} |")
    print(f"| validation persons | {len(frames)} | {mean_psnr(val[2], val[1]):.1f} |")

    tokens, rendered = torch.cat([train[0], made[0]]), torch.cat([train[2], made[2]])
    middle, spread = tokens.mean(0).double(), tokens.std(0).double() + 1e-6
    mean = rendered.double().mean(0)
    linear = solve((tokens - middle) / spread, rendered - mean, RIDGE)

    def guess(at: Tensor) -> Tensor:
        return (at - middle) / spread @ linear + mean

    fitted = torch.randperm(len(tokens), generator=random)[:PREVIEWED]
    preview = Preview(looked, tokens[fitted], rendered[fitted])
    residuals: dict[str, Callable[[Tensor], Tensor]] = {
        "the whole rendering": lambda at: thumbnails(looked.render(at)).double(),
        "the preview": preview,
        "the linear guess": guess,
    }
    by_guess, by_preview = (mean_psnr(shown(val[0]), val[2]) for shown in (guess, preview))
    print(
        f"\nRenderings of validation persons: the linear guess {by_guess:.1f} dB, the preview {by_preview:.1f} dB."
    )
    alone = mean_psnr(looked.render(val[0]), truth)
    print(f"\n| residual from | lambda | gain in PSNR at {SIZE} px, dB, by looks |\n|---|--:|---|")
    for name, shown in residuals.items():
        for strength in STRENGTHS:
            eye = torch.eye(len(linear), dtype=torch.double)
            step = torch.linalg.solve(linear @ linear.T + strength * eye, linear)
            at, gains = val[0].double(), []
            for _ in range(LOOKS):
                at = at + (val[1].double() - shown(at)) @ step.T * spread
                gains.append(f"{mean_psnr(looked.render(at), truth) - alone:+.2f}")
            print(f"| {name} | {strength:g} | {', '.join(gains)} |", flush=True)
    print(f"\nFrEN alone: {alone:.2f} dB.")


if __name__ == "__main__":
    main()
