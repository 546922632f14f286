"""``stylereel evaluate``: the options of the shell; what they start lies in ``services.evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from services.console import bars
from services.settings import load_params


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
            "--table", help="Measure Table 1 on consecutive frames too; both tables go into docs/results.md."
        ),
    ] = False,
    optimise: Annotated[
        bool, typer.Option(help="Measure the refined codes and the optimum too: minutes per frame on a CPU.")
    ] = False,
    clips: Annotated[
        Path | None, typer.Option(help="Folder of prepared clips; without, what 'dvc repro prepare' made.")
    ] = None,
    split: Annotated[Literal["test", "val"], typer.Option(help="Whose clips.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder for the metrics; without, metrics/.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a number of params.yaml."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Measure an encoder on persons that it was not trained on; a video encoder beside its frame encoder.

    Examples:

        stylereel evaluate

        stylereel evaluate --encoder video

        stylereel evaluate --encoder champion --optimise --table

        stylereel register assets/frame-encoder --evaluation metrics/frame_encoder.evaluation.json

    Optimised frames are kept, so that a run that was stopped goes on where it was.
    """
    from services.evaluate import METRICS_FOLDER, EvaluateOptions
    from services.evaluate import evaluate as measure

    words = ["stylereel evaluate"]
    words += [f"--encoder {encoder}"] if encoder else []
    words += ["--optimise"] if optimise else []
    words += [f"--split {split}"] if split != "test" else []
    words += [f"--set {override}" for override in set_ or []]
    command = " ".join([*words, "--table"] if table else words)
    options = EvaluateOptions(encoder, clips, split, optimise, table, out or METRICS_FOLDER, command)
    with bars(quiet) as report:
        print(measure(load_params(overrides=set_ or []), options, report))
