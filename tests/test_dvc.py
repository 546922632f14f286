"""``dvc.yaml`` names the code that each stage runs: what reruns a stage, and what a training is known by."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from services.code_hash import PACKAGES
from services.settings import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
OWN = {
    "fetch": {"services/stages/prepare.py": "fetch_parts"},
    "prepare": {"services/stages/prepare.py": "prepare"},
    "samples": {"services/stages/prepare.py": "make_samples"},
    "encoder": {"services/stages/encoder.py": "train_frame_encoder"},
    "video-encoder": {"services/stages/video_encoder.py": "train_video_encoder"},
    "colouriser": {"services/stages/restorers.py": "train_restoring_encoder"},
    "enlarger": {"services/stages/restorers.py": "train_restoring_encoder"},
    "directions": {"services/edits/directions.py": "train_directions"},
    "stylespace": {"services/edits/stylespace.py": "train_stylespace"},
    "pose-editor": {"services/edits/pose_editor.py": "train_pose_editor"},
    "evaluate": {
        "services/stages/evaluate.py": "evaluate_folder",
        "services/stages/evaluate_table.py": "evaluate_table",
    },
    "ablation": {"services/stages/ablation.py": "run_ablation"},
    "evaluate-video": {"services/stages/evaluate_video.py": "evaluate_video_encoder"},
}
"""A stage's own files, and where each begins."""
LEFT_OUT = {
    "datamodules/disk.py": "writes what it is given",
    "datamodules/types.py": "shapes and errors",
    "modules/assets.py": "finds files in the cache, which are known by their hashes",
    "modules/generators/__init__.py": "picks a network, which is known by its hash",
    "modules/generators/protocol.py": "what a generator has to offer",
    "modules/lit/reconstructions.py": "pictures for people",
    "modules/model_folder.py": "the format of a folder, whose weights count by their hash",
    "modules/sheet.py": "pictures for people",
    "services/code_hash.py": "names what was made by other code",
    "services/direction_settings.py": "the keys of params.yaml, whose values count",
    "services/edits/appearance_card.py": "words for people",
    "services/edits/directions_card.py": "words for people",
    "services/edits/pose_card.py": "words for people",
    "services/edits/pose_settings.py": "the keys of params.yaml, whose values count",
    "services/edits/sheets.py": "pictures for people",
    "services/evaluation/sheets.py": "pictures for people",
    "services/stages/data_sheets.py": "pictures for people",
    "services/pipeline/options.py": "the keys of params.yaml, whose values count",
    "services/pipeline/restorers.py": "where a stage's model lies",
    "services/places.py": "where things lie",
    "services/progress.py": "tells how far it is",
    "services/registry/gate.py": "the format of an evaluation",
    "services/registry/tracking.py": "tells the registry what happens",
    "services/settings.py": "reads params.yaml, whose values count",
    "services/training/generator_terms.py": "words for people",
    "services/training/runs.py": "tells the registry what happens",
    "services/training/validation.py": "words for people",
}
"""What stages import and no number hangs on, with the reason."""


def file_of(module: str, name: str) -> str | None:
    """Where ``name`` of an own module is from, as ``dvc.yaml`` writes it; None for what others wrote."""
    place = Path(*module.split("."))
    if place.parts[0] not in PACKAGES:
        return None
    files = (place / f"{name}.py", place.with_suffix(".py"), place / "__init__.py")
    return next(file.as_posix() for file in files if (ROOT / file).is_file())


def imported_by(file: str, entry: str) -> set[str]:
    """The own modules that a function of ``file`` takes something from, by itself or by others of that file."""
    tree = ast.parse((ROOT / file).read_text())
    defined: dict[str, ast.stmt] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            defined[statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
            defined |= dict.fromkeys(names, statement)
    imported = {
        alias.asname or alias.name: file_of(node.module or "", alias.name)
        for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    used, left = {entry}, [entry]
    while left:
        names = {node.id for node in ast.walk(defined[left.pop()]) if isinstance(node, ast.Name)}
        left += [name for name in names - used if name in defined]
        used |= names
    return {place for name in used if (place := imported.get(name))}


def modules_behind(files: set[str]) -> set[str]:
    """``files`` and all in ``modules`` that they import, and so on: what a number goes through."""
    used, left = set(files), list(files)
    while left:
        tree = ast.parse((ROOT / left.pop()).read_text())
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        found = {file_of(node.module or "", alias.name) for node in froms for alias in node.names}
        new = {file for file in found if file and file.startswith("modules/")} - used
        used |= new
        left += new
    return used


def is_named(file: str, stage: str) -> bool:
    return any(file == dep or file.startswith(f"{dep}/") for dep in STAGES[stage]["deps"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_own_files_and_on_what_they_import(stage: str) -> None:
    first = set(OWN[stage]).union(*(imported_by(file, entry) for file, entry in OWN[stage].items()))
    wanted = first | modules_behind({file for file in first if file.startswith("modules/")})
    missing = sorted(file for file in wanted - LEFT_OUT.keys() if not is_named(file, stage))
    assert not missing, f"dvc.yaml, stage {stage}: name these, or say in LEFT_OUT why no number hangs on them"


def test_what_is_left_out_is_there_and_imported() -> None:
    imported = {found for own in OWN.values() for file, entry in own.items() for found in imported_by(file, entry)}
    assert sorted(LEFT_OUT.keys() - imported) == []
