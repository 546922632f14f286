"""What the cards of trained models say about the terms of the generator that they learned from."""

from __future__ import annotations

from modules.generators.load import DEFAULT_SHA256


def terms_of(generator_sha256: str) -> str:
    """A sentence of two lines, without a break at the end."""
    if generator_sha256 == DEFAULT_SHA256:
        return (
            "Learned from random-face's MobileStyleGAN (Apache-2.0 as packaged), which was distilled from "
            "NVIDIA's FFHQ model,\nwhose own terms are non-commercial."
        )
    return (
        "Learned from the generator above, whose own terms hold for what was learned from it;\n"
        "some of the nets that judged, and of the faces, are for non-commercial use only."
    )
