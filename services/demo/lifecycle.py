"""The shipped models go through the registry: registered with their evaluation, judged by the gate, promoted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datamodules.types import BadInputError
from modules.model_folder import ModelFolder, load_model
from services.registry.errors import GateRefusedError, NoSuchVersionError
from services.registry.gate import Evaluation, Gates
from services.registry.promote import ModelRegistry
from services.registry.store import CHAMPION, RegisteredVersion

EVALUATIONS = "*.evaluation.json"


@dataclass(frozen=True)
class Standing:
    """How one shipped model stands after the gate."""

    name: str
    shipped: str
    """The shipped model's identity, the hashes of its weights and of its config."""
    champion: str | None
    """Version of the champion, None where there is none."""
    champion_identity: str | None
    folder: str
    """Model folder that the demo goes on with: the champion's, or the shipped one where there is none."""
    promoted: bool
    """Whether the shipped model is champion now."""
    why: str
    """The gate's verdict, one line."""


def find_evaluation(folders: list[Path], model: ModelFolder) -> Evaluation | None:
    """The evaluation of a model among the ``*.evaluation.json`` in ``folders``, or None."""
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.glob(EVALUATIONS)):
        try:
            evaluation = Evaluation.from_json(path.read_text())
        except BadInputError:  # another model's, or an earlier version's
            continue
        if (evaluation.model_sha256, evaluation.config_sha256) == (model.weights_sha256, model.config_sha256):
            return evaluation
    return None


def promote_shipped(registry: ModelRegistry, gates: Gates, name: str, folder: Path, metrics: Path) -> Standing:
    """Register the model in ``folder`` with its evaluation and let the gate decide; a refusal is no error here.

    The evaluation is looked for in the folder itself and in ``metrics``.
    """
    model = load_model(folder)
    champion = _champion(registry, name)
    if champion is not None and champion.identity == model.identity:
        why = f"version {champion.version} is champion already"
    else:
        evaluation = find_evaluation([folder, metrics], model)
        version = registry.register(folder, name, evaluation)
        try:
            done = registry.promote(name, gates.of(name), version.version)
            why = done.verdict.text if done.verdict else f"version {version.version} is champion"
        except GateRefusedError as refusal:
            why = refusal.verdict.text
            if champion and evaluation and champion.evaluation(evaluation.data_hash) is None:
                # What was shipped before was measured on other data, which need not be here.
                why += f"; to begin anew, remove {registry.cache.parent}"
        champion = _champion(registry, name)
    return Standing(
        name=name,
        shipped=model.identity,
        champion=None if champion is None else champion.version,
        champion_identity=None if champion is None else champion.identity,
        folder=str(folder if champion is None else registry.download(champion)),
        promoted=champion is not None and champion.identity == model.identity,
        why=why,
    )


def _champion(registry: ModelRegistry, name: str) -> RegisteredVersion | None:
    try:
        return registry.resolve(name, CHAMPION)
    except NoSuchVersionError:
        return None
