"""Who is in which clip, and which split each person belongs to."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.types import BadInputError

Split = Literal["train", "val", "test"]
TEST_LIST = Path(__file__).with_name("test_people.toml")
"""The committed test list: clips by the sha256 of their file."""


@dataclass(frozen=True)
class PeopleConfig:
    """How clips are grouped by person and persons are split."""

    same_person: float
    """Cosine similarity of identity embeddings from which two clips show one person."""
    val_share: float
    """Share of persons, beside the test list, that are held out for validation."""
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
            if float((identities[first] @ identities[second].T).max()) >= threshold:
                low, high = sorted((root(first), root(second)))
                group[high] = low
    order: dict[int, int] = {}
    return [order.setdefault(root(clip), len(order)) for clip in range(len(identities))]


def split_people(
    sha256s: Sequence[str], people: Sequence[int], test_clips: Mapping[str, str], config: PeopleConfig
) -> list[Split]:
    """A split for each clip, the same for all clips of a person and on every machine.

    A person with any clip on the test list is a test person; the others are dealt by a hash of their clips.
    With two or more others, and a ``val_share``, there is always one to train on and one to validate on.
    """
    splits: dict[int, Split] = {}
    draws: dict[int, float] = {}
    for person in set(people):
        clips = sorted(sha for sha, who in zip(sha256s, people, strict=True) if who == person)
        draw = int(hashlib.sha256("".join(clips).encode()).hexdigest()[:12], 16) / 16**12
        if any(sha in test_clips for sha in clips) or draw < config.test_share:
            splits[person] = "test"
        else:
            draws[person] = draw
            splits[person] = "val" if draw < config.test_share + config.val_share else "train"
    # Of a handful of persons chance may give validation none, or all.
    if config.val_share > 0 and len(draws) > 1:
        if "val" not in splits.values():
            splits[min(draws, key=draws.__getitem__)] = "val"
        elif "train" not in splits.values():
            splits[max(draws, key=draws.__getitem__)] = "train"
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
