"""Options that several commands of the shell share: one wording for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change a setting of params.yaml for this command; 'stylereel params' lists them.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Face = Annotated[str, typer.Option(help="largest, all, or a number counted from the left, from 0.")]
Refine = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Optimisation steps per frame: slower, closer to the person. Default: pipeline.follow.steps of "
        "params.yaml for clips; none for images, previews, random_identity and generators that learned the face.",
    ),
]
Start = Annotated[str | None, typer.Option(help="Where in a video to begin, e.g. 2s or 1:30.")]
End = Annotated[str | None, typer.Option(help="Where in a video to end.")]
EncoderFolder = Annotated[
    Path | None, typer.Option(help="frame, video, a model folder, or a pSp, e4e or ReStyle checkpoint.")
]
GeneratorSource = Annotated[
    str | None,
    typer.Option(
        "--generator",
        help="A model folder (see 'stylereel import') or a checkpoint; else generator.source of params.yaml.",
    ),
]
Adapt = Annotated[
    bool,
    typer.Option(
        "--adapt", help="Fine-tune the generator on this clip first: minutes, but much closer to the person."
    ),
]
Adapted = Annotated[Path | None, typer.Option(help="An adaptation that 'stylereel adapt' made of this person.")]
