import logging
from pathlib import Path

import pytest
from job_toys import Copier
from umasks import mode, umask

from services.serving.jobs import Jobs
from services.serving.latents import LatentStore
from services.serving.private_folder import private_folder
from services.serving.turns import Turns


def test_clips_and_faces_are_the_servers_alone(tmp_path: Path) -> None:
    """Ids of jobs are secrets; they are names of folders."""
    (tmp_path / "latents").mkdir(mode=0o755)  # as a server of before left it
    with umask(0o022):
        LatentStore(tmp_path / "latents", 1.0)
        Jobs(tmp_path / "state" / "jobs", Copier(), Turns(), 1.0, 0.05).close()
    assert mode(tmp_path / "latents") == mode(tmp_path / "state" / "jobs") == 0o700
    assert mode(tmp_path / "state") == 0o755


def test_a_folder_of_somebody_else_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    caplog.set_level(logging.WARNING, "stylereel.files")
    monkeypatch.setattr(Path, "chmod", refuse)
    assert private_folder(tmp_path) == tmp_path
    assert caplog.messages == [f"cannot close {tmp_path} to other users of this machine: Operation not permitted"]
