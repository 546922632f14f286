"""Turn somebody's checkpoint into a model folder, and say what was taken from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import PIL.Image
import torch

from datamodules.types import BadInputError
from modules.generators.checkpoints import Checkpoint, read_checkpoint
from modules.generators.load import KIND, build, save_generator
from modules.generators.protocol import Generator
from modules.model_folder import require_replaceable
from modules.ops import shrink
from modules.sheet import Image, draw_grid, to_picture

_TILE = 256
_COLUMNS = 4
_PSI = 0.7
_Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ImportReport:
    """What an import took from a file, and what it left there."""

    source: Path
    folder: Path
    """The model folder that was written."""
    format: str
    architecture: str
    sha256: str
    """Of the generator's weights: what codes, directions and encoders belong to."""
    num_ws: int
    resolution: int
    mean_from_file: bool
    """Whether the file had W's mean; else it was measured over samples."""
    used: _Shapes
    """The file's names and shapes that the generator is made of, constants that were checked included."""
    unused: _Shapes
    """Names and shapes that were left."""
    encoder: _Shapes
    """Those of them that an encoder is made of (e4e, pSp, ReStyle)."""
    sheet: Path
    """PNG with samples."""

    def __str__(self) -> str:
        lines = [
            f"{self.source.name}: {self.format}, {self.architecture}, {self.resolution} px",
            f"written to {self.folder}, samples in {self.sheet}",
            f"generator sha256 {self.sha256}, {self.num_ws} rows of codes",
            f"mean of W: {'from the file' if self.mean_from_file else 'measured, the file has none'}",
            f"keys used: {len(self.used)}, unused: {len(self.unused)} (an encoder's: {len(self.encoder)})",
        ]
        left = {name: shape for name, shape in self.unused.items() if name not in self.encoder}
        return "\n".join([*lines, *(f"  unused {name} {shape}" for name, shape in left.items())])


def import_checkpoint(file: Path, folder: Path, samples: int = 8) -> ImportReport:
    """Convert a checkpoint to the model folder ``folder``; ``FOLDER-samples.png`` is written next to it.

    Takes what ``load_generator`` takes as a file. ``samples`` images at truncation 0.7 make the sheet. Raises
    ``BadInputError``; nothing is written then.
    """
    if samples < 1:
        raise ValueError(f"a sheet needs at least one sample, got {samples}")
    require_replaceable(folder, KIND)
    found = read_checkpoint(file)
    module = build(found.architecture, found.tensors, found.config).eval()
    generator = cast(Generator, module)
    used, unused = _split(found)
    encoder = {name: shape for name, shape in unused.items() if name.startswith("state_dict.encoder.")}
    picture = _samples(generator, samples)
    save_generator(generator, folder, _card(file, found, generator, used, unused))
    sheet = folder.with_name(f"{folder.name}-samples.png")
    PIL.Image.fromarray(picture).save(sheet)
    return ImportReport(
        source=file,
        folder=folder,
        format=found.format,
        architecture=found.architecture,
        sha256=generator.sha256,
        num_ws=generator.num_ws,
        resolution=generator.resolution,
        mean_from_file="mapping.w_avg" in found.tensors,
        used=used,
        unused=unused,
        encoder=encoder,
        sheet=sheet,
    )


def _split(found: Checkpoint) -> tuple[_Shapes, _Shapes]:
    taken = {tensor.data_ptr() for tensor in found.tensors.values()}
    used: _Shapes = {}
    unused: _Shapes = {}
    for name, tensor in found.source.items():
        home = used if tensor.data_ptr() in taken or name in found.checked else unused
        home[found.prefix + name] = tuple(tensor.shape)
    for name, tensor in found.others.items():
        home = used if tensor.data_ptr() in taken else unused
        home[name] = tuple(tensor.shape)
    return used, unused


@torch.no_grad()
def _samples(generator: Generator, count: int) -> Image:
    side = min(_TILE, generator.resolution)
    z = torch.from_numpy(np.random.RandomState(0).standard_normal((count, generator.z_dim)).astype(np.float32))
    pictures = []
    for i in range(count):
        image = shrink(generator.synthesize(generator.map(z[i : i + 1], _PSI)), side)
        if not bool(torch.isfinite(image).all()):
            raise BadInputError("the generator's images are not finite numbers; the checkpoint is damaged")
        pictures.append(to_picture(image[0]))
    return draw_grid(pictures, side, _COLUMNS)


def _card(file: Path, found: Checkpoint, generator: Generator, used: _Shapes, unused: _Shapes) -> str:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return (
        f"# {found.architecture}, {generator.resolution} px\n\n"
        f"Imported from `{file.name}` (sha256 {digest}), {found.format}.\n\n"
        f"- generator sha256: {generator.sha256}\n"
        f"- rows of codes: {generator.num_ws}\n"
        "- data and metrics: those of the checkpoint's authors; not measured here\n"
        "- licence: the checkpoint's own; look it up before you use or share this folder\n"
        f"\n## Keys used\n\n{_listed(used)}\n## Keys unused\n\n{_listed(unused)}"
    )


def _listed(keys: _Shapes) -> str:
    return "".join(f"- `{name}` {shape}\n" for name, shape in keys.items()) or "none\n"
