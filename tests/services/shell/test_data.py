import subprocess
from pathlib import Path

import pytest
from umasks import mode, umask

import services.shell.data
from services.shell.data import add_videos


@pytest.mark.parametrize(("mask", "wanted"), [(0o077, 0o700), (0o022, 0o755)])
def test_who_may_see_added_videos_is_for_the_umask_to_say(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, mask: int, wanted: int
) -> None:
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(services.shell.data.subprocess, "run", lambda *_, **__: done)
    mine = tmp_path / "clips"
    (mine / "2024").mkdir(parents=True)
    (mine / "2024" / "a.mp4").write_bytes(clip.read_bytes())
    with umask(mask):
        added = tmp_path / add_videos(mine, None, tmp_path)
    assert mode(added) == mode(added / "2024") == wanted
    assert (added / "2024" / "a.mp4").read_bytes() == clip.read_bytes()
    assert [path.name for path in added.parent.iterdir()] == ["clips"]
