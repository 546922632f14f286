from pathlib import Path

import numpy as np
import pytest
from umasks import mode, umask

from datamodules.shards import Shard, save_shard


@pytest.mark.parametrize(("mask", "wanted"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_who_may_read_a_shard_is_for_the_umask_to_say(tmp_path: Path, mask: int, wanted: int) -> None:
    with umask(mask):
        save_shard(tmp_path / "a.safetensors", {"x": np.arange(3)}, [b"one", b"two"], {"name": "a"})
    assert mode(tmp_path / "a.safetensors") == wanted
    assert len(Shard(tmp_path / "a.safetensors", "make it again")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
