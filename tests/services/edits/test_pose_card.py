"""The pose editor's card and the table of what was got."""

from __future__ import annotations

from services.edits.pose_card import card
from services.edits.pose_evaluation import slopes_table


def test_the_card_names_generator_data_and_result() -> None:
    text = card("f" * 64, 6800, 150, ["a.mp4", "b.mp4"], ["| edit |", "| yaw |"])
    assert "f" * 64 in text and "6800 pictures" in text and "150 steps" in text and "a.mp4, b.mp4" in text
    assert "| edit |\n| yaw |" in text and "{" not in text
    assert "same clips: none" in card("f", 1, 0, [], [])


def test_the_table_says_what_was_got_at_each_strength() -> None:
    entry = {
        "asked": [-10.0, 0.0, 10.0], "got": [-9.0, 0.0, 8.0], "slope": 0.85, "slope_spread": 0.1,
        "identity": {"-10": 0.9, "10": 0.8}, "identity_5th_percentile": {"-10": 0.8, "10": 0.7},
        "cross_effects": {},
    }  # fmt: skip
    lines = slopes_table({"codes": 4, "edits": {"pose.yaw": entry}})
    assert lines[0].startswith("| edit") and "0.85" in lines[2]
    assert lines[-1] == "| pose.yaw | -10: -9.00, +10: +8.00 |", "the unedited picture is no strength"
