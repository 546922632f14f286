"""Code that changes is another code, and what is no code does not count."""

from pathlib import Path

import pytest
import yaml

from services.code_hash import python_sha256
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
