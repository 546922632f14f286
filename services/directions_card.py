"""What the model card of the directions says: data, metrics, limits, licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.evaluation_edits import as_markdown


def card(summary: Mapping[str, Any], generator_sha256: str) -> str:
    """The card for what was measured; ``summary`` is what ``metrics.json`` holds."""
    scores = ", ".join(f"{name} {score:.2f}" for name, score in summary["fit"].items())
    return _CARD.format(
        sha256=generator_sha256, samples=summary["samples"], scores=scores,
        refined=_REFINED.format(**summary["refined_on"]) if summary["refined_on"]["codes"] else "",
        tables="\n".join(as_markdown(summary)),
    )  # fmt: skip


_REFINED = """They were then refined by gradient
through the generator, these nets and an identity net, on {codes} more renderings: codes of one z, codes mixed
between layers, and {encoded} codes that the frame encoder gave for frames of persons of its training clips. """

_CARD = """# Linear edits of a face

Directions in W+ of the generator `{sha256}`.

## Data

{samples} pictures that this generator made itself, labelled by face-api's age and gender net and by MediaPipe's
face mesh. Boundaries were fitted with scikit-learn and parted from each other. {refined}Last, they were set to
their units by measuring renderings (`stylereel train directions`).

Held-out scores of the fits (share of variance; gender: right answers): {scores}.

## Metrics

On other generator samples, by the judges the edits were set with. A slope of 1 means that what was asked is what
was got. In the second table a row is an edit at a usual strength; a cell says how far it moves an attribute, as a
share of that attribute's own usual strength.

{tables}

## Limits

The age net pulls to the middle on generated faces, so years are that net's years. The mesh follows blinks weakly,
so eyes_open is a visible change, not a blink. What goes together in the generator's data (glasses and grey hair
with age, make-up and hair with gender) moves along in part.

## Licence

Learned from random-face's MobileStyleGAN (Apache-2.0 as packaged), which was distilled from NVIDIA's FFHQ model,
whose own terms are non-commercial.
"""
