"""What the model card of the directions says: data, metrics, limits, licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.edits.evaluation import as_markdown
from services.training.generator_terms import terms_of


def card(summary: Mapping[str, Any], generator_sha256: str) -> str:
    """The card for what was measured; ``summary`` is what ``metrics.json`` holds."""
    scores = ", ".join(f"{name} {score:.2f}" for name, score in summary["fit"].items()) or "not known"
    text = _CARD.format(
        sha256=generator_sha256, terms=terms_of(generator_sha256), samples=summary["samples"], scores=scores,
        units_on=summary["units_on"], persons=summary["persons"], clips=summary["clips"],
        fitted=_fitted(summary), who="these were" if summary["learned"] else "they were",
        tables="\n".join(as_markdown(summary)),
    )  # fmt: skip
    return text.replace(" \n", "\n")


def _fitted(summary: Mapping[str, Any]) -> str:
    codes, alone, start = summary["refined_on"], " and ".join(summary["alone"]), summary["went_on_from"]
    if learned := " and ".join(summary["learned"]):
        then = _REFINED.format(who=f"{alone} were then", codes=codes) if alone else ""
        return _LEARNED.format(learned=learned, start=start) + then
    if start:
        then = _REFINED.format(who=f"{alone} was then", codes=codes) if alone else ""
        return f"They went on from `{start}`\nas it was, fitted and refined on such pictures. {then}"
    if not codes:
        return _FITTED
    once_more = f"{alone} was refined once more. " if alone else ""
    return f"{_FITTED}{_REFINED.format(who='All were', codes=codes)}{once_more}"


_FITTED = "Boundaries were fitted with scikit-learn and parted from each other. "

_LEARNED = """Here only {learned}
were fitted, beside the edits of `{start}`, which are as they were. """

_REFINED = """{who} refined by gradient
through the generator, these nets and an identity net, on {codes} renderings: codes of one z, codes mixed between
layers, and codes that the frame encoder gave for frames of persons of its training clips. """

_CARD = """# Linear edits of a face

Directions in W+ of the generator `{sha256}`.

## Data

{samples} pictures that this generator made itself, labelled by face-api's age and gender net, its expression net,
and MediaPipe's face mesh. {fitted}
Last, {who} set to their units by measuring renderings of {units_on}
(`stylereel train directions`).

Held-out scores of the fits (share of variance; gender: right answers): {scores}.

## Metrics

On the generator's pictures of the frame encoder's codes for frames of {persons} persons in {clips} clips that
nothing was trained on; what is left once they are pasted is another measurement (`benchmarks/pasting.py`). Edits
were balanced on some frames of each clip (`balance` in params.yaml) and measured on others, by the judges they
were balanced by and, where there is one, by a second net that had no part in fitting or balancing. A slope of 1
means that what was asked is what was got. In the second table a row is an edit at a usual strength; a cell says
how far it moves an attribute, as a share of that attribute's own usual strength. surprise and anger are not
balanced, since they are made of brows, eyes and mouth: those may move with them.

{tables}

## Limits

The age net pulls to the middle on generated faces, so years are that net's years. The mesh follows blinks weakly,
so eyes_open is a visible change, not a blink. Hardly any picture of the generator shows surprise or anger: these
edits are what the expression net takes for them. What goes together in the generator's data (glasses and grey hair
with age, make-up and hair with gender) moves along in part.

## Licence

{terms}
"""
