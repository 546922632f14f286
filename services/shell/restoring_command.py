"""``stylereel colourise | enlarge``: the options of the shell; what they start lies in ``services.media``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.console import bars, seconds, tell
from services.settings import load_params
from services.shell.options import End, Face, Quiet, Set, Start

if TYPE_CHECKING:
    from modules.encoders.restoring import Task

Source = Annotated[Path, typer.Argument(metavar="IN", help="A video or an image.")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.")]
RestorerFolder = Annotated[Path | None, typer.Option(help="A model folder instead of the shipped one.")]


def colourise(
    source: Source,
    target: Target,
    start: Start = None,
    end: End = None,
    face: Face = "largest",
    encoder: RestorerFolder = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Colourise the face in a grey video or image; all else is grey afterwards.

    Examples:

        stylereel colourise old.mp4 coloured.mp4

        stylereel colourise group.jpg coloured.png --face all

    The colours are plausible, not the true ones. Light and shade stay the picture's own; colours that the input
    has are ignored.
    """
    _restore("colourise", source, target, start, end, face, encoder, set_, quiet)


def enlarge(
    source: Source,
    target: Target,
    start: Start = None,
    end: End = None,
    face: Face = "largest",
    encoder: RestorerFolder = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Make a video or an image four times as wide and high, and add detail to a small face.

    Examples:

        stylereel enlarge small.jpg large.png

        stylereel enlarge small.mp4 large.mp4 --end 5s

    The detail is plausible, not the truth: many faces look the same when they are small. All but faces is enlarged
    by bicubic interpolation. A result beyond runtime.max_pixels is refused.
    """
    _restore("enlarge", source, target, start, end, face, encoder, set_, quiet)


def _restore(
    task: Task,
    source: Path,
    target: Path,
    start: str | None,
    end: str | None,
    face: str,
    encoder: Path | None,
    set_: list[str] | None,
    quiet: bool,
) -> None:
    from services.media import restore_file
    from services.pipeline.restore import restoring_options

    options = restoring_options(face, seconds(start), seconds(end))
    params = load_params(overrides=set_ or [])
    with bars(quiet) as report:
        warnings = restore_file(source, target, task, params, options, encoder, report)
    tell(target, warnings)
