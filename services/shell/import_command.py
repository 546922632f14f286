"""``stylereel import``: the options of the shell; what they start tells generators and edits by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datamodules.types import BadInputError
from services.console import bars
from services.settings import load_params
from services.shell.options import Quiet, Set


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="A generator: NVlabs .pkl, or rosinality, e4e, pSp, ReStyle, PTI .pt. Or an edit: InterFaceGAN's "
            "or STIT's .npy, e4e's .pt, GANSpace's .pt, Latent-Transformer's tnet .pth.tar."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="The model folder to write.")],
    name: Annotated[str | None, typer.Option(help="Of the edit; without, from the file's name.")] = None,
    attribute: Annotated[
        str | None,
        typer.Option(help="Set the edit's unit by measuring, e.g. age: strengths then count in years."),
    ] = None,
    unit: Annotated[str | None, typer.Option(help="What one step is called; without, what it is.")] = None,
    lower: Annotated[float | None, typer.Option(help="Smallest strength of the edit.")] = None,
    upper: Annotated[float | None, typer.Option(help="Largest strength of the edit.")] = None,
    recolours: Annotated[
        bool | None,
        typer.Option(
            "--recolour/--keep-colours",
            help="Whether light and complexion change with the edit; without, as --attribute's own edit has it, "
            "and they do where there is none.",
        ),
    ] = None,
    component: Annotated[int | None, typer.Option(help="Which component of a GANSpace basis, from 0.")] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="START:END", help="Which layers a GANSpace component moves; all without.")
    ] = None,
    beside: Annotated[
        Path | None, typer.Option(help="Folder of edits that are written too, so that all are served together.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="Whose codes the edit moves: a model folder or a checkpoint.")
    ] = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Convert a published generator or edit to a model folder, without executing anything in it.

    Examples:

        stylereel import ffhq.pkl models/ffhq

        stylereel import age.pt models/age --attribute age

        stylereel edit me.jpg out.png --directions models/age --edit age=+10

        stylereel import e4e_ffhq_encode.pt models/e4e

        stylereel invert me.jpg me.safetensors --encoder e4e_ffhq_encode.pt --generator models/e4e

        stylereel import ffhq_pca.pt models/pca --component 10 --layers 7:8 --name hair

        stylereel import smile.npy models/edits --name grin --attribute smile --beside assets/directions

    An edit is measured on samples of the generator: how far it moves age, pose, smile and the rest, and what it
    leaves of the person; the card keeps it, FOLDER-samples.png shows it. With --beside the whole set is measured,
    and 'stylereel register FOLDER --evaluation FOLDER.evaluation.json' hands it to the gate.
    """
    from modules.editing.published_edits import Part, holds_edit

    asked = (name, attribute, unit, lower, upper, recolours, component, layers, beside, generator)
    if not holds_edit(file):
        if any(option is not None for option in asked):
            raise BadInputError(f"{file.name} holds no edit; the options are for edits, leave them out")
        from modules.generators.import_checkpoint import import_checkpoint

        made = import_checkpoint(file, folder)
        print(made)
        if made.encoder:
            print(f"its encoder is used from the file: --encoder {file} --generator {folder}")
        return
    from services.edits.import_edit import EditChoice, import_edit

    part = Part(component, _layers(layers))
    choice = EditChoice(name, unit, attribute, lower, upper, recolours, part, beside, generator)
    with bars(quiet) as report:
        lines = import_edit(file, folder, choice, load_params(overrides=set_ or []), report)
    print("\n".join(lines))


def _layers(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    start, colon, end = text.partition(":")
    if not (colon and start.strip().isdecimal() and end.strip().isdecimal()):
        raise BadInputError(f"cannot read the layers {text!r}; write START:END, for example 0:8")
    return int(start), int(end)
