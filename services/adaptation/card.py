"""The card of an adaptation: whose face, learned from what, how near it comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXT = """\
# Adaptation of the generator to one face

The generator `{generator}`, moved so that it shows the person of `{clip}` (sha256 `{sha256}`) at the codes that
`{encoder}` gives: the video adaptation of StylePortraitVideo, section 3.2. {frames} frames at {size} px,
{iterations} iterations, {seconds:.0f} s.{again}

| mean over frames it learned from | PSNR, dB | identity | landmarks, % of eyes |
|---|--:|--:|--:|
| before | {before} |
| after | {after} |

Person: {name}. Consent: {consent}. Holds until: {expires}.

It is of use for this person alone. Made from the clip named above and nothing else; the generator's own terms
(non-commercial, NVIDIA's FFHQ model) hold for it too.
"""


def adaptation_card(extra: Mapping[str, Any], generator_sha256: str) -> str:
    """Markdown from what the folder's config says."""
    report, subject = extra["report"], extra["subject"]
    encoders = [f"{name} {sha[:12]}" for name, sha in extra["models"].items() if "encoder" in name]
    again = f" It went on from the adaptation `{extra['start_from'][:12]}`." if extra["start_from"] else ""
    return _TEXT.format(
        generator=generator_sha256[:12],
        clip=extra["source"]["name"],
        sha256=extra["source"]["sha256"][:12],
        encoder=", ".join(encoders) or "the mean face",
        frames=report["frames"],
        size=report["size"],
        iterations=report["iterations"],
        seconds=report["seconds"],
        again=again,
        before=_row(report["before"]),
        after=_row(report["after"]),
        name=subject["name"] or "not named",
        consent=subject["consent"] or "not stated",
        expires=subject["expires"] or "not stated",
    )


def _row(means: Mapping[str, float | None]) -> str:
    columns = {"psnr": ".2f", "identity": ".3f", "landmark_error": ".2f"}
    return " | ".join("not seen" if means[name] is None else format(means[name], d) for name, d in columns.items())
