"""Episodes of shards whose pictures say their own row: frame ``k`` of a clip is all of grey ``4 k``."""

import numpy as np
import pytest
import torch

from datamodules.clips import Prepared, PreparedClip
from datamodules.episodes import EpisodeBatches, EpisodePlan, Stills, stretches
from datamodules.shards import encode_jpeg, save_shard
from datamodules.types import BadInputError
from datamodules.variation import Unsteadiness

STILL = Unsteadiness(0.0, 0.0, 0.0)
PLAN = EpisodePlan(steps=5, episodes=4, length=3, shown=2, long_memory=1.0, still_share=0.0)


def save(folder, name, frame, shot):
    pictures = [np.full((16, 16, 3), 4 * k, np.uint8) for k in range(len(frame))]
    arrays = {"frame": np.array(frame, np.int64), "shot": np.array(shot, np.int32)}
    save_shard(folder / name, arrays, [encode_jpeg(p, 100) for p in pictures], {})


@pytest.fixture
def prepared(tmp_path) -> Prepared:
    # Twelve frames; frame 5 shows no face, and a cut lies before the last four.
    save(tmp_path, "a", [0, 1, 2, 3, 4, *range(6, 18)], [0] * 13 + [1] * 4)
    save(tmp_path, "b", range(6), [0] * 6)
    save(tmp_path, "stills", range(3), range(3))
    clips = (
        PreparedClip("a.mp4", "a", "a", 17, 0, "train"),
        PreparedClip("b.mp4", "b", "b", 6, 1, "train"),
        PreparedClip("photos", "c", "stills", 3, -1, "train"),
    )
    return Prepared(tmp_path, clips, ())


def rows(frames):
    """The rows that pictures say they are."""
    return ((frames.mean((-1, -2, -3)) + 1) * 127.5 / 4).round().long()


def test_stretches_end_at_cuts_and_gaps(prepared) -> None:
    found = [[(part.first, part.last) for part in clip] for clip in stretches(prepared, "train", 5)]
    assert found == [[(0, 5), (5, 13)], [(0, 6)]]
    with pytest.raises(BadInputError, match="no 9 consecutive frames of a train person"):
        stretches(prepared, "train", 9)


def test_episodes_are_consecutive_and_remember_frames_of_their_own_stretch(prepared) -> None:
    clips = stretches(prepared, "train", 4)
    batches = list(EpisodeBatches(clips, [], [EpisodePlan(40, 4, 3, 2, 1.0, 0.0)], STILL, seed=1))
    assert len(batches) == 40 and batches[0]["frames"].shape == (4, 5, 3, 16, 16)
    edges = [(part.first, part.last) for clip in clips for part in clip]
    far = set()
    for batch in batches:
        assert ((batch["shown"] >= 0) & (batch["shown"] <= 1)).all()
        for earlier, *later in rows(batch["frames"]).tolist():
            assert later == list(range(later[0], later[0] + 4))
            assert any(a <= earlier <= later[0] and later[-1] < b for a, b in edges)
            far.add(later[0] - earlier)
    assert {0, 1, 2, 3, 4} <= far


def test_without_memory_the_earlier_frame_is_the_first(prepared) -> None:
    batches = EpisodeBatches(stretches(prepared, "train", 4), [], [EpisodePlan(20, 4, 3, 2, 0.0, 0.0)], STILL, 1)
    for batch in batches:
        found = rows(batch["frames"])
        assert torch.equal(found[:, 0], found[:, 1])


def test_a_batch_is_a_function_of_seed_and_step(prepared) -> None:
    clips, photos = stretches(prepared, "train", 4), Stills(prepared, "train")
    plan = EpisodePlan(5, 4, 3, 2, 0.5, 0.5)
    whole = list(EpisodeBatches(clips, photos, [plan], STILL, seed=3))
    late = list(EpisodeBatches(clips, photos, [plan], STILL, seed=3, first_step=2))
    other = next(iter(EpisodeBatches(clips, photos, [plan], STILL, seed=4)))
    assert len(late) == 3
    for a, b in zip(whole[2:], late, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in ("frames", "shown"))
    assert not torch.equal(other["frames"], whole[0]["frames"])


def test_stills_take_their_share_where_there_are_any(prepared) -> None:
    clips, photos = stretches(prepared, "train", 4), Stills(prepared, "train")
    assert len(photos) == 3
    plan = EpisodePlan(10, 8, 3, 2, 0.0, 0.5)
    made = torch.cat([rows(batch["frames"]) for batch in EpisodeBatches(clips, photos, [plan], STILL, 1)])
    still = (made == made[:, :1]).all(1)
    assert 20 < still.sum() < 60
    none = torch.cat([rows(batch["frames"]) for batch in EpisodeBatches(clips, [], [plan], STILL, 1)])
    assert not (none == none[:, :1]).all(1).any()


def test_plans_that_show_more_than_there_is_are_refused() -> None:
    with pytest.raises(ValueError, match="shows 1 to all"):
        EpisodePlan(1, 1, 2, 3, 0.0, 0.0)
    with pytest.raises(ValueError, match="shares"):
        EpisodePlan(1, 1, 2, 1, 1.5, 0.0)
