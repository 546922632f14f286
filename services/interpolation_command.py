"""``stylereel interpolate``: the options of the shell; what they start lies in ``services.media``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from services.console import bars, seconds
from services.settings import load_params


def interpolate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A video.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.")],
    factor: Annotated[int, typer.Option(help="How many times as many frames, 2 to 8.")] = 2,
    start: Annotated[str | None, typer.Option(help="Where to begin, e.g. 2s or 1:30.")] = None,
    end: Annotated[str | None, typer.Option(help="Where to end.")] = None,
    face: Annotated[
        str, typer.Option(help="largest, all, or a number that counts from the left, from 0.")
    ] = "largest",
    refine: Annotated[
        int | None,
        typer.Option(min=0, help="Steps of optimisation per frame; pipeline.follow.steps of params.yaml without."),
    ] = None,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="Let the generator learn this clip's face first: minutes, far nearer.")
    ] = False,
    adapted: Annotated[
        Path | None, typer.Option(help="An adaptation that 'stylereel adapt' made of this person.")
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="frame, video, a model folder, or a pSp, e4e or ReStyle checkpoint.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="A model folder (see 'stylereel import') or a checkpoint.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a number of params.yaml."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Give a video more frames: the face between two is moved as the generator moves it between their codes.

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
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    print(target)
