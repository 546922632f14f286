"""Rows of ``ws``: which are coarse, and which of one generator are which of another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from datamodules.types import BadInputError
from modules.generators.protocol import StyleLayer

# MobileStyleGAN was distilled from StyleGAN2-1024 and lacks the two layers that read rows 15 and 16.
_STYLEGAN2_1024_ROWS = 18
_ROWS_OF_16 = (*range(15), 17)


class HasRows(Protocol):
    """What the rows of a generator are read off."""

    num_ws: int
    layers: tuple[StyleLayer, ...]


def published_rows(generator: HasRows) -> int:
    """How many rows the StyleGAN2 has that published codes and edits for ``generator`` are made with."""
    return _STYLEGAN2_1024_ROWS if _lacks_two(generator) else generator.num_ws


def row_map(rows: int, generator: HasRows) -> tuple[int, ...]:
    """For each of the generator's ``num_ws`` rows, the row to read from codes or edits that have ``rows``.

    Raises ``BadInputError`` where there is no such correspondence.
    """
    if rows == generator.num_ws:
        return tuple(range(rows))
    if rows == _STYLEGAN2_1024_ROWS and _lacks_two(generator):
        return _ROWS_OF_16
    raise BadInputError(
        f"{rows} rows of codes do not fit a generator of {generator.num_ws}; use what was made for this generator"
    )


def coarse_rows(layers: Sequence[StyleLayer], up_to: int) -> int:
    """How many leading rows of ``ws`` modulate feature maps of ``up_to`` pixels or smaller.

    A style modulates what comes into its layer. With 32 px these are 8 of StyleGAN2's 18 rows, as in FrEN and
    ViEN (section 3.2), and 8 of MobileStyleGAN's 16. Raises ``BadInputError`` where none or all are coarse.
    """
    incoming, coarse, rows = layers[0].resolution, set[int](), {layer.ws_index for layer in layers}
    for layer in layers:
        size = layer.resolution if layer.to_rgb else incoming
        if sampled_at(size) <= up_to:
            coarse.add(layer.ws_index)
        incoming = incoming if layer.to_rgb else layer.resolution
    if not coarse or coarse == rows or coarse != set(range(len(coarse))):
        raise BadInputError(
            f"{len(coarse)} of {len(rows)} rows feed layers up to {up_to} px; choose another size, so that "
            "there are coarse rows and fine ones"
        )
    return len(coarse)


def sampled_at(size: int) -> int:
    """The largest power of two in ``size``: what a feature map of that side counts as.

    StyleGAN3's canvases are larger than their sampling by a margin of 20 px: 84 counts as 64, 1044 as 1024.
    """
    return 1 << (size.bit_length() - 1)


def _lacks_two(generator: HasRows) -> bool:
    # StyleGAN3 has 16 rows too, but its first layer is larger than StyleGAN2's constant of 4 px.
    return generator.num_ws == len(_ROWS_OF_16) and generator.layers[0].resolution == 4
