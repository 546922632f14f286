"""Which face is edited in which frame: tracks over time, the choice among them, and how an edit fades away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.types import BadInputError, Landmarks
from modules.perception.detection import FaceBox, FaceObservation

Embedding = NDArray[np.float32]
"""Who a face is: of unit length, the product of two is their likeness."""
FaceState = Literal["face", "held", "faded", "none"]
"""Of one frame: seen; held from the frame before; on its way to the original; left as it was."""


@dataclass(frozen=True)
class FacesConfig:
    """How faces are followed over time and what happens when one is lost."""

    overlap: float
    """Smallest intersection over union of boxes that continues a track."""
    same_person: float
    """Cosine of identity embeddings below which two faces are of two persons, as in ``people``."""
    gap: int
    """Frames that a track may miss before it ends."""
    shortest: int
    """Frames that a track needs to count as a face; a shorter shot needs all of its frames."""
    hold: int
    """Frames without the face during which the last edit stays."""
    fade: int
    """Frames over which the edit then fades to the original, and comes back when the face returns."""

    def __post_init__(self) -> None:
        if self.hold < 0 or self.fade < 1:
            raise ValueError(f"hold must be 0 or more and fade 1 or more, got {self.hold} and {self.fade}")


@dataclass
class Track:
    """One face as it moves through one shot."""

    frames: list[int] = field(default_factory=list)
    boxes: list[FaceBox] = field(default_factory=list)
    landmarks: list[NDArray[np.float32]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    persons: list[Embedding] = field(default_factory=list)
    """Embeddings of the frames in which somebody looked at who it is."""
    successor: Track | None = None
    """The track of another person that took this one's place."""

    def extend(self, frame: int, face: FaceObservation, person: Embedding | None = None) -> None:
        """Append the face's place in a later frame."""
        if person is not None:
            self.persons.append(person)
        self.frames.append(frame)
        self.boxes.append(face.box)
        self.landmarks.append(np.asarray(face.landmarks, np.float32))
        self.scores.append(float(face.score))

    @property
    def weight(self) -> float:
        """Sum of the box areas over time: large and long-lived faces lead."""
        return sum((box.x1 - box.x0) * (box.y1 - box.y0) for box in self.boxes)

    @property
    def centre(self) -> float:
        """Mean x of the boxes, for the order from left to right."""
        return sum(box.x0 + box.x1 for box in self.boxes) / (2 * len(self.boxes))


class Tracker:
    """Joins the faces of consecutive frames by the overlap of their boxes; keeps landmarks only, no pixels.

    Where it is told who the faces are, a face of another person is another track, and begins another face.
    """

    def __init__(self, config: FacesConfig) -> None:
        self.config = config
        self.shots: list[list[Track]] = [[]]
        self.cuts: list[int] = []
        self.count = 0

    def cut(self) -> None:
        """The next frame begins a new shot: no track goes on across it."""
        if self.count:
            self.cuts.append(self.count)
            self.shots.append([])

    def add(self, faces: Sequence[FaceObservation], persons: Sequence[Embedding | None] = ()) -> None:
        """The faces of the next frame, in any order, and of unit length who each is, None where nobody looked."""
        who = list(persons) or [None] * len(faces)
        live = [
            t for t in self.shots[-1]
            if self.count - t.frames[-1] <= self.config.gap + 1 and t.successor is None
        ]  # fmt: skip
        taken: dict[int, int] = {}
        ousted: dict[int, int] = {}
        last = [t.boxes[-1] for t in live]
        for t, f in overlapping(last, [face.box for face in faces], self.config.overlap):
            if t not in taken.values() and f not in taken:
                if live[t].persons and self._differ(live[t].persons[-1:], who[f]):
                    ousted.setdefault(t, f)
                else:
                    taken[f] = t
        heirs = []
        for f, face in enumerate(faces):
            if f in taken:
                heirs.append(live[taken[f]])
            else:
                heirs.append(Track())
                self.shots[-1].append(heirs[-1])
            heirs[-1].extend(self.count, face, who[f])
        for t, f in ousted.items():
            if t not in taken.values():
                live[t].successor = heirs[f]
        self.count += 1

    def changes(self, face: str) -> tuple[int, ...]:
        """Frames in which, inside a shot, another person takes the place of a face to be edited, or it another's.

        ``face`` is as for ``choose``: what happens to faces that are not edited is no change.
        """
        found = set()
        lanes_of_shots = self._lanes()
        for ranks in self._ranks(face, lanes_of_shots):
            for lanes, rank in zip(lanes_of_shots, ranks, strict=True):
                lane_of = {id(track): number for number, lane in enumerate(lanes) for track in lane}
                for track in (track for lane in lanes for track in lane):
                    if track.successor is None or (heir := lane_of.get(id(track.successor))) is None:
                        continue
                    if (lane_of[id(track)] == rank) != (heir == rank):
                        found.add(track.successor.frames[0])
        return tuple(sorted(found))

    def strangers(self, face: str) -> tuple[int, ...]:
        """Frames from which a chosen face is none that was chosen in its place before, over shots too.

        Where nobody looked who it is, it counts as the same. ``face`` is as for ``choose``.
        """
        found = set()
        lanes_of_shots = self._lanes()
        for ranks in self._ranks(face, lanes_of_shots):
            known: list[Embedding] = []
            for lanes, rank in zip(lanes_of_shots, ranks, strict=True):
                chosen = lanes[rank] if rank < len(lanes) else []
                for track in sorted(chosen, key=lambda one: one.frames[0]):
                    if known and track.persons and all(self._differ(known, one) for one in track.persons):
                        found.add(track.frames[0])
                    known += track.persons
        return tuple(sorted(found))

    def choose(self, face: str, required: bool = True) -> list[Landmarks]:
        """Landmarks over the whole clip of each face to be edited.

        ``face`` is ``largest``, ``all``, or a number that counts each shot's faces from the left, from 0.
        Raises ``BadInputError`` where there is no face, unless none is ``required``, or none of that number.
        """
        lanes = self._lanes()
        most = max((len(shot) for shot in lanes), default=0)
        if not most and not required:
            return []
        if not most:
            raise BadInputError("no face was found; use a picture or a section of the clip that shows one")
        if check_face(face).isdigit() and int(face) >= most:
            raise BadInputError(
                f"face {face} was asked for, but at most {most} can be seen, counted from the left from 0"
            )
        return [self._landmarks(lanes, ranks) for ranks in self._ranks(face, lanes)]

    def _ranks(self, face: str, lanes: list[list[list[Track]]]) -> list[list[int]]:
        """For each face to be edited its place among the lanes of every shot; one beyond them where it is not."""
        if face == "largest":
            return [[0 for _ in lanes]]
        if face == "all":
            return [[rank for _ in lanes] for rank in range(max((len(shot) for shot in lanes), default=0))]
        return [[_rank_from_left(shot, int(check_face(face))) for shot in lanes]]

    def _lanes(self) -> list[list[list[Track]]]:
        """For each shot its faces, largest first, each the tracks on which it is seen.

        Tracks that never share a frame are one face that left and came back, unless they are known to be two
        persons'.
        """
        edges = [0, *self.cuts, self.count]
        shots = []
        for tracks, (start, end) in zip(self.shots, pairwise(edges), strict=True):
            shortest = min(self.config.shortest, end - start)
            lanes: list[list[Track]] = []
            for track in sorted(tracks, key=lambda t: t.weight, reverse=True):
                if len(track.frames) < shortest:
                    continue
                for lane in lanes:
                    if self._one_face(lane, track):
                        lane.append(track)
                        break
                else:
                    lanes.append([track])
            shots.append(lanes)
        return shots

    def _one_face(self, lane: Sequence[Track], track: Track) -> bool:
        if not all(set(track.frames).isdisjoint(other.frames) for other in lane):
            return False
        known = [person for other in lane for person in other.persons]
        return not (known and track.persons) or not all(self._differ(known, person) for person in track.persons)

    def _differ(self, known: Sequence[Embedding], person: Embedding | None) -> bool:
        """Whether a face is like none of those that are known."""
        return person is not None and float(max(np.stack(known) @ person)) < self.config.same_person

    def _landmarks(self, lanes: list[list[list[Track]]], ranks: Sequence[int]) -> Landmarks:
        points = np.full((self.count, 68, 2), np.nan, np.float32)
        score = np.zeros(self.count, np.float32)
        for shot, rank in zip(lanes, ranks, strict=True):
            for track in shot[rank] if rank < len(shot) else []:
                points[track.frames] = track.landmarks
                score[track.frames] = track.scores
        return Landmarks(points, score)


def overlapping(before: Sequence[FaceBox], now: Sequence[FaceBox], least: float) -> list[tuple[int, int]]:
    """Indices of boxes before and now whose intersection over union is at least ``least``, largest first."""
    pairs = [(one.overlap(other), b, n) for b, one in enumerate(before) for n, other in enumerate(now)]
    return [(b, n) for overlap, b, n in sorted(pairs, reverse=True) if overlap >= least]


def track(
    frames: Sequence[Sequence[FaceObservation]],
    cuts: Sequence[int],
    config: FacesConfig,
    persons: Sequence[Sequence[Embedding | None]] = (),
) -> Tracker:
    """Follow the faces of all frames; ``cuts`` are the indices of frames that begin a new shot.

    ``persons`` says for each face of each frame who it is, None where nobody looked.
    """
    tracker = Tracker(config)
    starts = set(cuts)
    for index, faces in enumerate(frames):
        if index in starts:
            tracker.cut()
        tracker.add(faces, persons[index] if persons else ())
    return tracker


@dataclass(frozen=True)
class Presence:
    """How much of the edit each frame shows."""

    weight: NDArray[np.float32]
    """``(T,)`` in [0, 1]."""
    state: tuple[FaceState, ...]
    """T states."""


def check_face(face: str) -> str:
    """The choice itself when it is ``largest``, ``all`` or a number from 0; raises ``BadInputError``."""
    if face in ("largest", "all") or (face.isascii() and face.isdigit() and len(face) <= 4):
        return face
    given = repr(face[:20])
    raise BadInputError(f"face must be 'largest', 'all' or a number counted from the left from 0, got {given}")


def presence(valid: NDArray[np.bool_], cuts: Sequence[int], config: FacesConfig) -> Presence:
    """Hold the edit for ``hold`` frames after the face is lost, fade it over ``fade``, fade back on return.

    ``valid`` ``(T,)`` says which frames have the face. Every shot begins anew: a face that is there from its
    first frame is edited fully at once, and nothing is held into it.
    """
    weight = np.zeros(len(valid), np.float32)
    state: list[FaceState] = []
    step = 1.0 / (config.fade + 1)
    starts = {0, *cuts}
    current, missed, seen = 0.0, 0, False
    for frame, present in enumerate(valid):
        if frame in starts:
            current, missed, seen = (1.0 if present else 0.0), 0, False
        if present:
            current, missed, seen = min(1.0, current + step), 0, True
            state.append("face")
        else:
            missed += 1
            if missed > config.hold:
                current = max(0.0, current - step)
            # A sum of steps does not end at 0 exactly; what is less than half a step is nothing.
            current = current if current > step / 2 else 0.0
            held = seen and missed <= config.hold
            state.append("none" if current == 0 else "held" if held else "faded")
        weight[frame] = current
    return Presence(weight, tuple(state))


def _rank_from_left(shot: Sequence[Sequence[Track]], number: int) -> int:
    order = sorted(range(len(shot)), key=lambda rank: shot[rank][0].centre)
    return order[number] if number < len(order) else len(shot)
