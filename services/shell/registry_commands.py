"""``stylereel register | promote | rollback | status | history``: the registry from the shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datamodules.types import BadInputError
from services.console import bars
from services.settings import Params, load_params

if TYPE_CHECKING:
    from services.registry.promote import ModelRegistry

Name = Annotated[str, typer.Argument(help="Registered name, e.g. stylereel-frame-encoder.")]


def register(
    folder: Annotated[Path, typer.Argument(help="A model folder.")],
    name: Annotated[str | None, typer.Option(help="Registered name. Default: by task or kind.")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="JSON that the evaluation wrote for this model.")] = None,
) -> None:
    """Put a model folder into the registry and make it the challenger."""
    from modules.model_folder import load_model
    from services.model_names import usual_name
    from services.registry.errors import NoSuchVersionError
    from services.registry.gate import Evaluation
    from services.registry.store import CHAMPION, ROLLED_BACK

    try:
        read = Evaluation.from_json(_text(evaluation)) if evaluation else None
    except BadInputError as error:
        raise BadInputError(f"{evaluation}: {error}") from error
    config = load_model(folder).config
    registered = name or usual_name(config)
    subject = config.get("subject")
    tags = {key: str(value) for key, value in subject.items() if value} if isinstance(subject, dict) else {}
    registry = _registry()
    version = registry.register(folder, registered, read, tags)
    which, promote = f"{version.name} version {version.version}", f"'stylereel promote {version.name}"
    try:
        champion = registry.resolve(version.name, CHAMPION).version
    except NoSuchVersionError:
        champion = ""
    if champion == version.version:
        print(f"{which} is the champion already")
    elif ROLLED_BACK in version.tags:
        number = f"--version {version.version}"
        print(f"{which} was rolled back, so it is no challenger; {promote} {number}' has it judged all the same")
    else:
        print(f"{which} is the challenger; {promote}' is next")


def promote(
    name: Name,
    version: Annotated[str | None, typer.Option(help="Judge this version instead of the challenger.")] = None,
) -> None:
    """Make the challenger champion if it passes the gate; exit code 3 with all reasons if not."""
    from services.precise_generator import generator_sha256
    from services.registry.gate import Gates
    from services.stages.evaluate import re_evaluation

    params = load_params()
    gate = params.section("gate", Gates).of(name)
    with bars(False) as report:
        done = _registry(params).promote(
            name,
            gate,
            version,
            re_evaluate=re_evaluation(params, name, report),
            generator_sha256=generator_sha256(params),
        )
    if done.verdict is not None:
        print("\n".join(done.verdict.reasons))
    print(f"{name} version {done.champion.version} is champion; previous is {done.previous or 'none'}")


def rollback(name: Name, why: Annotated[str, typer.Option(help="Kept in the history.")] = "asked for") -> None:
    """Make the previous champion champion again."""
    done = _registry().rollback(name, why)
    print(f"{name} version {done.champion.version} is champion again; previous is {done.previous or 'none'}")


def status() -> None:
    """Champion, challenger and previous version of each registered model."""
    rows = _registry().status()
    width = max(28, *(len(row.name) for row in rows if row.versions), 0)
    print(f"{'model':<{width}} {'champion':<9} {'challenger':<11} {'previous':<9} versions")
    for row in rows:
        if row.versions:
            cells = f"{row.champion or '-':<9} {row.challenger or '-':<11} {row.previous or '-':<9} {row.versions}"
            print(f"{row.name:<{width}} {cells} {row.note}".rstrip())


def history(name: Annotated[str | None, typer.Argument(help="Only this model.")] = None) -> None:
    """Who became champion when and why, refusals included, the oldest first."""
    for event in _registry().history(name):
        before = f" after {event.champion_before}" if event.champion_before else ""
        print(f"{event.time} {event.name} {event.version} {event.action}{before} by {event.user}: {event.why}")


def _registry(params: Params | None = None) -> ModelRegistry:
    from services.opened_registry import open_registry

    return open_registry(params or load_params())


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot read {path}: {error}") from error
