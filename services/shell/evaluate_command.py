"""``stylereel evaluate``: the options of the shell; what they start lies in ``services.stages.evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from services.console import bars
from services.settings import load_params
from services.shell.options import Quiet, Set


def evaluate(
    encoder: Annotated[
        str,
        typer.Option(
            help="frame, video, a model folder, or champion, challenger, previous or a version of the frame "
            "encoder; without, the shipped frame encoder."
        ),
    ] = "",
    table: Annotated[
        bool,
        typer.Option(
            "--table",
            help="Measure Table 1 on consecutive frames too; the tables go into docs/results.md where the metrics "
            "go into metrics/.",
        ),
    ] = False,
    optimise: Annotated[
        bool, typer.Option(help="Measure the refined codes and the optimum too: minutes per frame on a CPU.")
    ] = False,
    clips: Annotated[
        Path | None, typer.Option(help="Folder of prepared clips; without, what 'dvc repro prepare' made.")
    ] = None,
    split: Annotated[Literal["test", "val"], typer.Option(help="Whose clips.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the metrics; without, metrics/ for a shipped encoder on the test persons, as "
            "params.yaml has it, and the state's metrics/ for anything else."
        ),
    ] = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Measure an encoder on held-out persons; a video encoder beside its frame encoder.

    Examples:

        stylereel evaluate

        stylereel evaluate --encoder video

        stylereel evaluate --encoder champion --optimise --table

        stylereel register assets/frame-encoder --evaluation metrics/frame_encoder.evaluation.json

    Optimised frames are kept, so that a run that was stopped goes on where it was. What was measured of another
    encoder, on other clips or with other numbers never takes the place of the committed metrics and tables.
    """
    from services.pipeline.encoders import SHIPPED
    from services.places import METRICS_FOLDER
    from services.stages.evaluate import EvaluateOptions
    from services.stages.evaluate import evaluate as measure

    words = ["stylereel evaluate"]
    words += [f"--encoder {encoder}"] if encoder else []
    words += ["--optimise"] if optimise else []
    words += [f"--clips {clips}"] if clips else []
    words += [f"--split {split}"] if split != "test" else []
    words += [f"--set {override}" for override in set_ or []]
    command = " ".join([*words, "--table"] if table else words)
    params = load_params(overrides=set_ or [])
    shipped = encoder in ("", "frame", "video") or Path(encoder).resolve() in SHIPPED.values()
    usual = shipped and split == "test" and clips is None and not set_
    folder = out or (METRICS_FOLDER if usual else params.runtime.state / "metrics")
    published = folder.resolve() == METRICS_FOLDER
    options = EvaluateOptions(encoder, clips, split, optimise, table, published, folder, command)
    with bars(quiet) as report:
        print(measure(params, options, report))
    print(f"\nwritten to {folder}")
