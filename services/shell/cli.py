"""The ``stylereel`` command. Everything heavy is imported inside the commands, so that --help is fast."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from datamodules.disk import is_disk_full
from datamodules.types import BadInputError
from services.console import INTERRUPTED, bars, complain, seconds, tell
from services.memory import keep_freed_memory
from services.settings import load_params
from services.shell.adaptation_command import adapt
from services.shell.assets_commands import assets_app, data_app
from services.shell.demo_command import demo
from services.shell.evaluate_command import evaluate
from services.shell.import_command import import_
from services.shell.interpolation_command import interpolate
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
from services.shell.params_command import params as list_params
from services.shell.registry_commands import history, promote, register, rollback, status
from services.shell.restoring_command import colourise, enlarge
from services.shell.subject_command import forget
from services.waiting import wait_briefly

if TYPE_CHECKING:
    from services.pipeline.options import EditOptions

app = typer.Typer(
    name="stylereel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Invert, edit and serve real face video with a StyleGAN.

First steps:

    stylereel edits                                      what can be edited, in which units
    stylereel edit clip.mp4 older.mp4 --edit age=+20     twenty years older
    stylereel edit me.jpg smiling.png --edit smile=1     an image works too
    stylereel colourise old.mp4 coloured.mp4             likely colours for a grey face

Every output has a sidecar, OUTPUT.json, with the edits, options, models and a report per frame.
Exit codes: 0 done, 2 bad input, 3 refused by the gate, 4 registry unreachable, 130 interrupted.""",
)
app.add_typer(assets_app, name="assets")
app.add_typer(data_app, name="data")
app.command()(demo)
app.command()(adapt)
app.command()(interpolate)
app.command()(forget)
app.command()(evaluate)
app.command()(colourise)
app.command()(enlarge)
app.command(name="import")(import_)
app.command(name="params")(list_params)
for _command in (register, promote, rollback, status, history):
    app.command()(_command)


def _show_version(asked: bool) -> None:
    if asked:
        from services.version import version

        print(f"stylereel {version()}")
        raise typer.Exit


@app.callback()
def _options_before_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


DISK_FULL = "the disk is full: free some space and run it again; nothing half-written is left"
OUT_OF_MEMORY = (
    "out of memory: free some, or lower detection.batch, pipeline.chunk or pipeline.sizes (params.yaml)"
)

EditsFolders = Annotated[
    list[Path] | None,
    typer.Option("--directions", help="Model folder of more edits, see 'stylereel import'; may be repeated."),
]


@app.command()
def edit(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A video, an image, or codes of 'invert'.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.")],
    edits: Annotated[
        list[str] | None, typer.Option("--edit", "-e", metavar="NAME=STRENGTH", help="May be given several times.")
    ] = None,
    start: Start = None,
    end: End = None,
    face: Face = "largest",
    refine: Refine = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="A fast look: few frames, a small synthesis.")
    ] = False,
    paste: Annotated[
        Literal["auto", "difference", "mixed", "replace"],
        typer.Option(
            help="Add what changes (sharp), paste the edited face, or mixed: paste what moved and add the rest; "
            "auto mixes, and pastes what must be covered."
        ),
    ] = "auto",
    region: Annotated[
        Literal["auto", "face", "head"],
        typer.Option(
            help="What may change; auto is the head for pose and hair, a part of the face for mouth or eyes."
        ),
    ] = "auto",
    seed: Annotated[
        int, typer.Option(min=0, help="Which person random_identity shows, the same one on every frame.")
    ] = 0,
    balance: Annotated[
        bool,
        typer.Option(help="Measure what the edits do to this face, and correct strengths and side effects."),
    ] = True,
    keep_lips: Annotated[
        bool, typer.Option("--keep-lips", help="Keep the lips speaking under the edit: some seconds a frame.")
    ] = False,
    stitch: Annotated[
        bool,
        typer.Option(
            "--stitch", help="Tune the generator until the border of the pasted face matches the frame: minutes."
        ),
    ] = False,
    adapt: Adapt = False,
    adapted: Adapted = None,
    encoder: EncoderFolder = None,
    directions: EditsFolders = None,
    generator: GeneratorSource = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Edit the face in a video or an image.

    Examples:

        stylereel edit clip.mp4 older.mp4 --edit age=+20 --edit smile=1

        stylereel edit clip.mp4 look.mp4 --edit yaw=-10 --start 2s --end 5s --preview

        stylereel edit group.jpg out.png --edit smile=1 --face 1

        stylereel edit clip.mp4 other.mp4 --edit random_identity=1 --seed 7

        stylereel edit clip.mp4 happy.mp4 --edit smile=1 --adapt --keep-lips

        stylereel edit clip.mp4 turned.mp4 --edit yaw=12 --adapt --stitch

    Where the reconstruction is poor a warning says so; --adapt then helps, or --refine 50.
    """
    from modules.editing.directions import parse_edit
    from services.media import edit_file

    requests = [parse_edit(text) for text in edits or []]
    chosen_options = {"paste": paste, "region": region, "preview": preview, "seed": seed, "balance": balance}
    slow = {"adapt": adapt, "keep_lips": keep_lips, "stitch": stitch}
    options = _options(face, refine, start, end, **slow, **chosen_options)
    params = load_params(overrides=set_ or [])
    with bars(quiet) as report:
        chosen = (encoder, None, generator)
        warnings = edit_file(source, target, requests, params, options, chosen, report, directions or [], adapted)
    tell(target, warnings)


@app.command()
def invert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A video or an image.")],
    target: Annotated[Path, typer.Argument(metavar="CODES", help="Where the codes go: a .safetensors file.")],
    start: Start = None,
    end: End = None,
    face: Face = "largest",
    refine: Refine = None,
    encoder: EncoderFolder = None,
    generator: GeneratorSource = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Turn a face into codes, one set per frame that shows it, and measure the reconstruction.

    Examples:

        stylereel invert me.jpg me.safetensors --refine 100

        stylereel edit me.safetensors older.png --edit age=+20
    """
    from services.media import invert_file

    options = _options(face, refine, start, end)
    params = load_params(overrides=set_ or [])
    with bars(quiet) as report:
        metrics, warnings = invert_file(source, target, params, options, (encoder, None, generator), report)
    for name, value in metrics.items():
        print(f"{name:>17} {value:.3f}")
    tell(target, warnings)


@app.command()
def edits(directions: EditsFolders = None, generator: GeneratorSource = None) -> None:
    """List what can be edited: names, units, smallest and largest strength."""
    from modules.editing.placement import NAMES as PLACEMENTS
    from services.media import known_edits
    from services.precise_generator import GeneratorSettings

    params = load_params()
    own = params.section("generator", GeneratorSettings).path()
    rows = known_edits(directions or [], generator or own, params)
    if all(row.name in PLACEMENTS for row in rows):
        print(
            "there is no assets/directions: 'dvc repro directions' makes one, --directions names one. Without it:"
        )
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        print(f"{row.name:<{width}} {row.lower:+g} … {row.upper:+g} {row.unit}")


@app.command()
def train(
    stage: Annotated[
        Literal[
            "fetch",
            "prepare",
            "samples",
            "encoder",
            "video-encoder",
            "colouriser",
            "enlarger",
            "directions",
            "stylespace",
            "pose-editor",
            "ablation",
        ],
        typer.Argument(help="Fetch parts, align the videos, render samples, train the encoder, learn the edits."),
    ],
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Run one stage of the training by itself; 'dvc repro' runs those whose inputs changed, in order.

    Each is a run in MLflow, named after the stage, and goes on where it was stopped. Example:

        stylereel train encoder --set frame_encoder.trainer.precision=32-true
    """
    from services.progress import Meter, never

    params = load_params(overrides=set_ or [])
    left_out: tuple[tuple[str, str], ...] = ()
    with bars(quiet) as report:
        meters: dict[str, Meter] = {}

        def tell(done: int, total: int, what: str) -> None:
            meter = meters.setdefault(stage, Meter(stage, total, report, never))
            meter.advance(done - meter.done)

        if stage == "prepare":
            from services.stages.prepare import prepare

            left_out = prepare(params, tell).left_out
        elif stage in ("fetch", "samples"):
            from services.stages.prepare import fetch_parts, make_samples

            {"fetch": fetch_parts, "samples": make_samples}[stage](params, tell)
        elif stage == "encoder":
            from services.stages.encoder import train_frame_encoder

            print(train_frame_encoder(params))
        elif stage == "video-encoder":
            from services.stages.video_encoder import train_video_encoder

            print(train_video_encoder(params))
        elif stage in ("colouriser", "enlarger"):
            from modules.encoders.restoring import STAGES
            from services.stages.restorers import train_restoring_encoder

            print(train_restoring_encoder(params, {name: task for task, name in STAGES.items()}[stage], print))
        elif stage == "stylespace":
            from services.edits.stylespace import train_stylespace

            print(train_stylespace(params, print))
        elif stage == "pose-editor":
            from services.edits.pose_editor import train_pose_editor

            print(train_pose_editor(params, print))
        elif stage == "ablation":
            from services.stages.ablation import run_ablation

            print(run_ablation(params, set_ or [], report))
        else:
            from services.edits.directions import train_directions

            print(train_directions(params, print))
    for name, reason in left_out:  # after the bars, which would be drawn over it
        print(f"left out {name}: {reason}")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="IP address to bind to. Default: loopback.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = None,
    set_: Set = None,
) -> None:
    """Serve inversion, edits and video jobs over HTTP; the page at / explains the routes."""
    from services.serving.serve import serve as serve_forever

    overrides = [f"runtime.{key}={value}" for key, value in (("host", host), ("port", port)) if value is not None]
    environment = {k: v for k, v in os.environ.items() if not (k == "STYLEREEL_HOST" and host is not None)}
    environment = {k: v for k, v in environment.items() if not (k == "STYLEREEL_PORT" and port is not None)}
    serve_forever(load_params(overrides=[*(set_ or []), *overrides], environment=environment).runtime, set_ or ())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code; errors are one line on stderr."""
    wait_briefly()
    keep_freed_memory()
    # A scheduler's SIGTERM ends the process at once unless it is handled, and leaves frames and parts of files.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """The exit code of one command line."""
    try:
        code: Any = app(arguments, prog_name="stylereel", standalone_mode=False)
    except TyperException as error:
        if not error.format_message():  # a group by itself, whose help is shown
            return 0
        complain(f"{error.format_message()} ('stylereel --help' lists what there is)")
        return error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        known = _exit_code(error)
        if known is None:
            raise
        complain(DISK_FULL if is_disk_full(error) else _said(error))
        return known
    if code == INTERRUPTED:
        complain("interrupted; nothing half-written is left")
    return code if isinstance(code, int) else 0


def _exit_code(error: Exception) -> int | None:
    """None for what is a fault of ours."""
    if isinstance(error, BadInputError):
        return 2
    if isinstance(error, OSError):
        # A full disk or a missing permission is the machine's, and its message says so.
        return 2 if error.strerror else None
    from modules.assets import AssetUnavailableError
    from modules.out_of_memory import is_out_of_memory
    from services.registry.errors import exit_code

    return 2 if isinstance(error, AssetUnavailableError) or is_out_of_memory(error) else exit_code(error)


def _said(error: Exception) -> str:
    from modules.out_of_memory import is_out_of_memory

    return OUT_OF_MEMORY if is_out_of_memory(error) else str(error)


def _options(face: str, refine: int | None, start: str | None, end: str | None, **others: Any) -> EditOptions:
    from services.pipeline.options import EditOptions

    return EditOptions(face=face, refine=refine, start=seconds(start), end=seconds(end), **others)


if __name__ == "__main__":
    main()
