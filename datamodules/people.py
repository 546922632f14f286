"""Who is in which clip, and which split each person belongs to."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.types import BadInputError

Split = Literal["train", "val", "test"]
TEST_LIST = Path(__file__).with_name("test_people.toml")
"""The committed test list: clips by the sha256 of their file."""
BETWEEN = "it joins persons of different splits; cut it so that each part shows one of them"
_MOST_SEEN: tuple[Split, ...] = ("train", "val", "test")

Embed = Callable[[Tensor], Tensor]
"""``(N, 3, size, size)`` aligned crops in [-1, 1] to ``(N, D)`` unit identity embeddings."""


@dataclass(frozen=True)
class PeopleConfig:
    """How clips are grouped by person and persons are split."""

    same_person: float
    """Cosine similarity of identity embeddings from which two clips show one person."""
    val_share: float
    """Share of persons, beside the test list, that are held out for validation; another deals all persons anew."""
    test_share: float
    """Share of persons that are tested on beside the test list; for data that no list names."""

    def __post_init__(self) -> None:
        if not -1 <= self.same_person <= 1:
            raise ValueError(f"same_person is a cosine from -1 to 1, got {self.same_person}")
        if min(self.val_share, self.test_share) < 0 or self.val_share + self.test_share > 1:
            raise ValueError("val_share and test_share are shares that add up to 1 at most")


def same_people(identities: Sequence[NDArray[np.float32]], threshold: float) -> list[int]:
    """Group clips by person: ``(S, D)`` unit embeddings per clip, one per shot, to a number per clip.

    Two clips are of one person where any two of their embeddings are at least ``threshold`` alike, and so is
    everything in between (single linkage): rather two persons in one group than one person in two splits.
    Groups are numbered by their first clip.
    """
    group = list(range(len(identities)))

    def root(clip: int) -> int:
        while group[clip] != clip:
            clip = group[clip]
        return clip

    for second in range(len(identities)):
        for first in range(second):
            if _alike(identities[first], identities[second], threshold):
                low, high = sorted((root(first), root(second)))
                group[high] = low
    order: dict[int, int] = {}
    return [order.setdefault(root(clip), len(order)) for clip in range(len(identities))]


def between_splits(
    sha256s: Sequence[str],
    identities: Sequence[NDArray[np.float32]],
    test_clips: Mapping[str, str],
    earlier: Mapping[str, Split],
    threshold: float,
) -> list[int]:
    """Which new clips join persons of different splits, and so fit in none without moving somebody.

    ``earlier`` is the split of each clip of before. Those and the clips of the test list are never among them. The
    new ones are looked at in the order of their sha256, so that the answer is the same on every machine.
    """
    old = [clip for clip, sha in enumerate(sha256s) if sha in earlier or sha in test_clips]
    who = same_people([identities[clip] for clip in old], threshold)
    persons: list[tuple[list[int], Split | None]] = []
    for person in set(who):
        clips = [clip for clip, one in zip(old, who, strict=True) if one == person]
        persons.append((clips, _settled([sha256s[clip] for clip in clips], test_clips, earlier)))
    between = []
    for new in sorted(set(range(len(sha256s))) - set(old), key=sha256s.__getitem__):
        met = [any(_alike(identities[clip], identities[new], threshold) for clip in clips) for clips, _ in persons]
        joined = [person for person, is_met in zip(persons, met, strict=True) if is_met]
        splits = {split for _, split in joined if split}
        if len(splits) > 1:
            between.append(new)
            continue
        persons = [person for person, is_met in zip(persons, met, strict=True) if not is_met]
        persons.append(([new, *(clip for clips, _ in joined for clip in clips)], next(iter(splits), None)))
    return sorted(between)


def split_people(
    sha256s: Sequence[str],
    people: Sequence[int],
    test_clips: Mapping[str, str],
    config: PeopleConfig,
    earlier: Mapping[str, Split] | None = None,
) -> list[Split]:
    """A split for each clip, the same for all clips of a person, and on every machine with the same ``earlier``.

    A person with any clip on the test list is a test person; one with a clip in ``earlier``, the splits of before
    by sha256, keeps that split; the others are dealt by a hash of their clips. Where clips of before turn out to
    show one person in two splits, train wins over val over test: what was trained on is not tested on. Of the
    persons beside those of the test list there is one to train on and, of two or more with a ``val_share``, one
    to validate on, as far as the new ones can fill in.
    """
    splits: dict[int, Split] = {}
    draws: dict[int, float] = {}
    for person in set(people):
        clips = sorted(sha for sha, who in zip(sha256s, people, strict=True) if who == person)
        draw = int(hashlib.sha256("".join(clips).encode()).hexdigest()[:12], 16) / 16**12
        settled = _settled(clips, test_clips, earlier or {})
        if settled:
            splits[person] = settled
            continue
        draws[person] = draw
        tested, validated = config.test_share, config.test_share + config.val_share
        splits[person] = "test" if draw < tested else "val" if draw < validated else "train"
    # Of a handful of persons chance may give training or validation none. Only who is new may be moved.
    if draws and "train" not in splits.values():
        splits[max(draws, key=draws.__getitem__)] = "train"
    new = {person: draw for person, draw in draws.items() if splits[person] != "test"}
    others = [split for split in splits.values() if split != "test"]
    if config.val_share > 0 and len(others) > 1 and new and "val" not in others:
        splits[min(new, key=new.__getitem__)] = "val"
    return [splits[person] for person in people]


def read_test_list(path: Path = TEST_LIST) -> dict[str, str]:
    """The committed test clips: sha256 of the file to a name for people. Raises ``BadInputError``."""
    try:
        clips = tomllib.loads(path.read_text())["clips"]
    except (OSError, KeyError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} must have a table [clips] of sha256 = name ({error})") from error
    wrong = [sha for sha in clips if len(sha) != 64 or set(sha) - set("0123456789abcdef")]
    if wrong:
        raise BadInputError(f"{path}: {wrong[0]!r} is not a sha256; run sha256sum on the clip")
    return {str(sha): str(name) for sha, name in clips.items()}


def _alike(one: NDArray[np.float32], other: NDArray[np.float32], threshold: float) -> bool:
    return float((one @ other.T).max()) >= threshold


def _settled(clips: Sequence[str], test_clips: Mapping[str, str], earlier: Mapping[str, Split]) -> Split | None:
    """The split that a person of these clips has to have; None where it is still to be drawn."""
    if any(sha in test_clips for sha in clips):
        return "test"
    return min((earlier[sha] for sha in clips if sha in earlier), key=_MOST_SEEN.index, default=None)
