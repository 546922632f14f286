"""The card of the folder of appearance edits: data, channels, metrics, limits, licence."""

from __future__ import annotations

from collections.abc import Sequence

from modules.editing.random_identity import RandomIdentity
from modules.editing.stylespace import ChannelEdit
from services.training.generator_terms import terms_of


def card(edits: Sequence[ChannelEdit | RandomIdentity], samples: int, codes: int, tables: str) -> str:
    """Markdown; ``samples`` were localised on and ``codes`` measured on, ``tables`` says with what result."""
    return _CARD.format(
        sha256=edits[0].generator_sha256,
        terms=terms_of(edits[0].generator_sha256),
        samples=samples,
        codes=codes,
        channels="\n".join(_listed(edits)),
        tables=tables,
    )


def _listed(edits: Sequence[ChannelEdit | RandomIdentity]) -> list[str]:
    return [
        f"- {edit.name}: " + ", ".join(
            f"{layer} {number} ({amount:+.2f})"
            for (layer, number), amount in zip(edit.channels, edit.amounts.tolist(), strict=True)
        )
        for edit in edits if isinstance(edit, ChannelEdit)
    ]  # fmt: skip


_CARD = """# Appearance edits

Channels of S space (StyleSpace) and a random identity, for the generator `{sha256}`.

## Data

{samples} pictures that this generator made itself, parsed by MediaPipe's selfie_multiclass, face mesh and iris
net. For every channel of every style layer the energy that it puts into and out of a
region was estimated by backward passes from random pictures, and its slope on each measure by one backward pass
each. Of the channels whose energy falls into the region, a few were combined so that they raise the measure for
the least change elsewhere; units were set by measuring renderings (`stylereel train stylespace`). The random
identity is one of made persons whose codes lack what turns a head and moves a face as the edits of
`assets/directions` do (their card names what those learned from); each is as strong as it takes to hide
other samples and frames of validation persons' clips; of those that leave their faces fine detail, the ones
under which landmarks move the least were kept.

## Channels

Layer, number and change per unit, the strongest first.

{channels}

## Metrics

On {codes} other generator samples, by the judges the edits were set with. In the second table a row is an edit
at a usual strength; a cell says how far it moves a measure, over that measure's spread among the unedited
pictures. Hidden is the share of persons and seeds whose likeness to themselves falls below that of one person: by
fr_feature, which the random identity was made with, and by dlib's net, which it was not (0.6 and more apart).

{tables}

## Limits

What is local is so in the mean over faces: under a beard or glasses channels do something else. The random
identity is not anonymity: whoever knows seed, strength and generator undoes it, hair and clothes stay, and so do
voice and manner.

## Licence

{terms}
"""
