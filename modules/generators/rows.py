"""Rows of ``ws`` between generators: codes and edits made for StyleGAN2 fit other generators of its W."""

from __future__ import annotations

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


def _lacks_two(generator: HasRows) -> bool:
    # StyleGAN3 has 16 rows too, but its first layer is larger than StyleGAN2's constant of 4 px.
    return generator.num_ws == len(_ROWS_OF_16) and generator.layers[0].resolution == 4
