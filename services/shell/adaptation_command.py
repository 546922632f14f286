"""``stylereel adapt``: the options of the shell; what they start lies in ``services.adaptation.learn``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.console import bars, seconds, tell
from services.settings import load_params
from services.shell.options import EncoderFolder, End, GeneratorSource, Quiet, Set, Start


def adapt(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A video.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the adaptation goes: a model folder.")],
    iterations: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Steps. Default: adaptation.iterations of params.yaml.")
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="An earlier adaptation of this person: the first steps then lead further, and name, consent and "
            "expiry stay unless they are given.",
        ),
    ] = None,
    subject: Annotated[str, typer.Option(help="Who it is.")] = "",
    consent: Annotated[str, typer.Option(help="Reference of that person's consent, e.g. a form's number.")] = "",
    expires: Annotated[
        str, typer.Option(help="Last day of the consent, e.g. 2027-12-31; the adaptation is refused after it.")
    ] = "",
    start: Start = None,
    end: End = None,
    face: Annotated[str, typer.Option(help="largest, or a number counted from the left, from 0.")] = "largest",
    encoder: EncoderFolder = None,
    generator: GeneratorSource = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Fine-tune the generator on the face in a clip, so that edits look much more like the person.

    Examples:

        stylereel adapt interview.mp4 anna --subject anna --consent "form 17" --expires 2027-12-31

        stylereel adapt second.mp4 anna-2 --from anna --iterations 100

        stylereel edit interview.mp4 older.mp4 --adapted anna --edit age=+20

    If it was stopped, it continues where it was. 'stylereel edit --adapt' does the same for one clip.
    """
    from services.adaptation.models import adapt_file
    from services.consent import Subject
    from services.pipeline.options import EditOptions

    options = EditOptions(face=face, start=seconds(start), end=seconds(end))
    more = [f"adaptation.iterations={iterations}"] if iterations is not None else []
    params = load_params(overrides=[*(set_ or []), *more])
    about = Subject(subject, consent, expires)
    with bars(quiet) as report:
        done = adapt_file(source, folder, params, options, (encoder, None, generator), report, start_from, about)
    for name, after in done.after.items():
        before = done.before[name]
        if before is not None and after is not None:
            print(f"{name:>16} {before:.3f} -> {after:.3f}")
    tell(folder, done.warnings)
