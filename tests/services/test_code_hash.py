"""Code that changes is another code, and what is no code does not count."""

from pathlib import Path

import pytest
import yaml

from services.code_hash import JUDGES, judges_sha256, named_sha256, nets_sha256, python_sha256
from services.settings import ROOT
from services.training import runs


def test_code_that_changes_is_another_code(tmp_path: Path) -> None:
    def found() -> str:
        return python_sha256([tmp_path / "services", tmp_path / "modules"], tmp_path)

    for room in ("services", "modules"):
        (tmp_path / room / "part").mkdir(parents=True)
    file = tmp_path / "services" / "part" / "edit.py"
    file.write_text("a = 1\n")
    first = found()
    assert found() == first == python_sha256([file], tmp_path)
    (tmp_path / "services" / "notes.txt").write_text("no code")
    assert found() == first
    file.rename(file.with_name("edited.py"))
    renamed = found()
    file.with_name("edited.py").write_text("a = 2\n")
    assert len({first, renamed, found()}) == 3


def test_a_stages_code_is_what_dvc_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "build").mkdir()
    stages = {"one": {"deps": ["modules/a.py", "build/b.py"]}, "all": {"deps": ["modules"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    monkeypatch.setattr(runs, "ROOT", tmp_path)

    def found(name: str) -> tuple[str, str]:
        (tmp_path / name).write_text(name)
        return runs.code_sha256("one"), runs.code_sha256("all")

    (tmp_path / "build" / "b.py").write_text("")
    first = found("modules/a.py")
    assert found("build/b.py") == first, "what is made is no code"
    other = found("modules/c.py")
    assert other[0] == first[0] and other[1] != first[1]


def test_other_networks_or_other_code_that_asks_them_are_other_judges(tmp_path: Path) -> None:
    for path in JUDGES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("a = 1\n")
    found = [judges_sha256(tmp_path, *assets) for assets in (["yunet"], ["mediapipe"], ["mediapipe", "yunet"])]
    (tmp_path / JUDGES[0]).write_text("a = 2\n")
    assert len({*found, judges_sha256(tmp_path, "yunet")}) == 4
    assert nets_sha256("yunet", "mediapipe") == nets_sha256("mediapipe", "yunet") != nets_sha256("yunet")
    assert all((ROOT / path).exists() for path in JUDGES)


def test_files_that_are_named_count_by_what_is_in_them(tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "net.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    first = named_sha256(weights), named_sha256(weights.parent)
    weights.write_bytes(b"two")
    assert len({*first, named_sha256(weights), named_sha256(weights.parent), ""}) == 3
    assert named_sha256(tmp_path / "nothing") == ""
