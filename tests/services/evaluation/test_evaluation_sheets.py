"""What the sheets of trainings and evaluations show is what was asked for, in its place."""

import numpy as np
import torch
from sheet_cells import STEP, cell

from modules.sheet import GAP, TOP
from services.evaluation.frames import HeldOutFrames
from services.evaluation.sheets import CLIPS, FRAMES, SIDE, STREAMED, Shown, pairs_sheet, video_sheet
from services.evaluation.video import CodeSource, VideoEncoding


def test_an_evaluation_shows_each_frame_beside_what_was_made_of_it() -> None:
    count = 3 * FRAMES
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 256, 256, 3), np.uint8)
    frames = HeldOutFrames(pixels, ("clip",) * count, (0,) * count, "data")
    fixed = list(range(0, count, 2))
    shown = Shown(frames, fixed)
    for name, indices, shift in (("encoder", range(count), 100), ("optimum", fixed, 50)):
        for i in indices:
            shown.see(name, [i], torch.full((1, 3, 32, 32), (i + shift) / 127.5 - 1))
    sheet = shown.sheet({"encoder": "encoder", "optimum": "optimum (500 steps)"})
    assert sheet.shape[0] == TOP + FRAMES * STEP - GAP
    for row in (0, 5, FRAMES - 1):
        i = cell(sheet, row, 0)
        assert i in fixed and (cell(sheet, row, 1), cell(sheet, row, 2)) == (i + 100, i + 50)


def test_pairs_stand_side_by_side() -> None:
    inputs, made = ([np.full((SIDE, SIDE, 3), n + shift, np.uint8) for n in range(5)] for shift in (0, 100))
    sheet = pairs_sheet(inputs, made)
    assert [cell(sheet, 0, c, 0, 0) for c in range(8)] == [0, 100, 1, 101, 2, 102, 3, 103]
    assert [cell(sheet, 1, c, 0, 0) for c in range(3)] == [4, 104, 255]


def test_video_is_shown_after_the_frames_that_an_encoder_remembers() -> None:
    """Clip n has the greys n, n + 10, n + 20, ...; one row gives them again, the other counts frames."""
    fed: list[int] = []

    def grey(clip: HeldOutFrames) -> VideoEncoding:
        fed.append(len(clip))
        return VideoEncoding(torch.from_numpy(clip.pixels[:, 0, 0, :1] / 127.5 - 1).float()[:, None])

    def counted(clip: HeldOutFrames) -> VideoEncoding:
        return VideoEncoding((torch.arange(1.0, 1 + len(clip)) / 127.5 - 1).view(-1, 1, 1))

    def clip_of(number: int, length: int) -> HeldOutFrames:
        greys = np.array([number + 10 * i for i in range(length)], np.uint8)
        pixels = greys[:, None, None, None] * np.ones((1, 256, 256, 3), np.uint8)
        return HeldOutFrames(pixels, (f"clip {number}",) * length, (0,) * length, "data")

    clips = [clip_of(number, 7 if number == 0 else 14) for number in range(2 * CLIPS)]
    rows = [CodeSource("grey", "Grey", grey), CodeSource("counted", "Counted", counted)]
    sheet = video_sheet(clips, rows, lambda ws: ws[:, :, :1, None].expand(-1, 3, 32, 32))
    assert fed == [7, *[STREAMED] * (CLIPS - 1)], "not the whole clip: a sheet is quick"
    assert sheet.shape[0] == TOP + CLIPS * STEP - GAP
    assert [cell(sheet, 0, column) for column in range(3)] == [60, 60, 7]
    last = 2 * CLIPS - 1 + 10 * (STREAMED - 1)
    assert [cell(sheet, CLIPS - 1, column) for column in range(3)] == [last, last, STREAMED]
