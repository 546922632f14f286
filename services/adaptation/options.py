"""What cannot be asked of an edit whose generator learns a face: said before minutes are spent on learning it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from services.pipeline.crops import changes_nothing
from services.pipeline.options import EditOptions


def check_one_face(options: EditOptions) -> None:
    """Raise ``BadInputError`` for options that no adaptation can follow."""
    if options.face == "all":
        raise BadInputError("an adaptation is of one face; choose 'largest' or a number from the left, from 0")


def check_learned_once(options: EditOptions, adaptation: Path | None) -> None:
    """Raise ``BadInputError`` where a face is to be learned and was learned, or where it is not one face.

    ``adaptation`` is a folder that was learned before, None for none.
    """
    if adaptation is not None and options.adapt:
        raise BadInputError("--adapt learns the face of this clip, --adapted takes one that was learned: give one")
    if adaptation is not None or options.adapt:
        check_one_face(options)


def check_edit_asked(requests: Sequence[EditRequest], options: EditOptions) -> None:
    """Raise ``BadInputError`` where minutes would be spent on an output that is the input."""
    if (options.adapt or options.keep_lips or options.stitch) and changes_nothing(requests, options):
        raise BadInputError(
            "no edit was asked: give --edit NAME=STRENGTH, or --paste replace to see the reconstruction"
        )
