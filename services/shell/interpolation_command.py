"""``stylereel interpolate``: the options of the shell; what they start lies in ``services.media``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.console import bars, seconds, tell
from services.settings import load_params
from services.shell.options import (
    Adapt,
    Adapted,
    EncoderFolder,
    End,
    Face,
    GeneratorSource,
    Quiet,
    Refine,
    Set,
    Start,
)


def interpolate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A video.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.")],
    factor: Annotated[int, typer.Option(help="How many times as many frames, 2 to 8.")] = 2,
    start: Start = None,
    end: End = None,
    face: Face = "largest",
    refine: Refine = None,
    adapt: Adapt = False,
    adapted: Adapted = None,
    encoder: EncoderFolder = None,
    generator: GeneratorSource = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Add frames to a video: the face between two frames is rendered between their codes.

    Examples:

        stylereel interpolate clip.mp4 smooth.mp4 --factor 2 --adapt

        stylereel interpolate interview.mp4 slow.mp4 --factor 4 --adapted anna

    The frames of the clip stay as they are, its duration and audio too. Across a cut, and where no face is seen,
    the frame before is shown again.
    """
    from services.media import interpolate_file
    from services.pipeline.options import EditOptions

    options = EditOptions(face=face, refine=refine, start=seconds(start), end=seconds(end), adapt=adapt)
    params = load_params(overrides=set_ or [])
    with bars(quiet) as report:
        chosen = (encoder, None, generator)
        warnings = interpolate_file(source, target, factor, params, options, chosen, report, adapted)
    tell(target, warnings)
