import numpy as np
import pytest
import torch

from modules.sheet import GAP, LEFT, TOP, Row, draw_grid, draw_sheet, to_picture


def flat(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_pictures_stand_where_their_row_and_column_are() -> None:
    sheet = draw_sheet([Row([flat(10), flat(20)]), Row(np.stack([flat(30)]))], 8)
    assert sheet.shape == (2 * 8 + GAP, 2 * 8 + GAP, 3)
    assert (sheet[:8, :8] == 10).all() and (sheet[:8, 8 + GAP :] == 20).all()
    assert (sheet[8 + GAP :, :8] == 30).all() and (sheet[8 + GAP :, 8 + GAP :] == 255).all()
    assert (sheet[8 : 8 + GAP] == 255).all()


def test_labels_and_titles_get_room_and_ink() -> None:
    sheet = draw_sheet([Row([flat(10, 64)], "clip", "train\nperson 3")], 64, ["input"])
    assert sheet.shape == (TOP + 64, LEFT + 64, 3)
    assert (sheet[TOP:, LEFT:] == 10).all()
    assert (sheet[TOP:, :LEFT] < 128).any() and (sheet[:TOP] < 160).any()


def test_a_grid_fills_its_last_row_with_paper() -> None:
    sheet = draw_grid([flat(value) for value in (10, 20, 30)], 8, 2)
    assert sheet.shape == (2 * 8 + GAP, 2 * 8 + GAP, 3)
    assert (sheet[8 + GAP :, :8] == 30).all() and (sheet[8 + GAP :, 8 + GAP :] == 255).all()
    assert draw_grid([flat(1)], 8, 5).shape == (8, 8, 3), "no wider than what there is"


def test_other_sizes_are_brought_to_one() -> None:
    checks = np.kron(np.indices((16, 16)).sum(0) % 2, np.ones((2, 2))).astype(np.uint8)[..., None] * np.uint8(200)
    shrunk = draw_grid([np.repeat(checks, 3, axis=2)], 8, 1)
    assert (shrunk == 100).all(), "averaged, not picked"


@pytest.mark.parametrize("picture", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8)])
def test_other_kinds_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        draw_grid([picture], 8, 1)


def test_nothing_to_draw_is_refused() -> None:
    for rows in ([], [Row([])]):
        with pytest.raises(ValueError, match="at least one"):
            draw_sheet(rows, 8)


def test_pixels_of_an_image() -> None:
    image = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 5).expand(3, 2, 5)
    assert to_picture(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_picture(image).shape == (2, 5, 3)
