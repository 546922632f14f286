"""The card of the folder of the pose editor: data, metrics, limits, licence."""

from __future__ import annotations

from collections.abc import Sequence

from services.training.generator_terms import terms_of


def card(generator_sha256: str, samples: int, steps: int, clips: Sequence[str], tables: Sequence[str]) -> str:
    """Markdown: trained on ``samples`` of the generator and on ``clips``; ``tables`` says with what result."""
    return _CARD.format(
        sha256=generator_sha256, samples=samples, steps=steps, clips=", ".join(clips) or "none",
        tables="\n".join(tables), terms=terms_of(generator_sha256),
    )  # fmt: skip


_CARD = """# Pose and expression editor

A change of a face model's parameters to a change of the codes of the generator `{sha256}`: FrEN/ViEN, section 4.4,
with a face model on MediaPipe's mesh in the place of 3DDFA_V2 and BFM, which lies in the same folder (`basis.*`).

## Data

The linear part: the codes of {samples} pictures that the generator made itself. The MLP on top, {steps} steps:
pairs of frames a third of a second apart of the clips below, and codes of both kinds whose renderings were
measured. The face model: the same pictures, and the same clips: {clips}.

## Metrics

On persons not trained on, from the shipped encoder's codes. A slope of 1 means that what was asked is what was
got. The second judge is a head pose net that was in no loss. `stylereel train pose-editor` measures this.

{tables}

## Limits

Crops are aligned by eyes and mouth, so the generator has seen hardly any roll or shift: this editor does not offer
them; `pose.roll`, `pose.right`, `pose.down` and `pose.nearer` move the picture instead. Where yaw is
asked for the most, expressions are no longer quite what they were. The mesh follows blinks weakly.

## Licence

{terms}
"""
