"""The card of the directions says what was done, and nothing that was not."""

from __future__ import annotations

from services.edits.directions_card import card

TOLD = {
    "fit": {"age": 0.5}, "samples": 480, "refined_on": 276, "codes": 24, "edits": {}, "persons": 7, "clips": 9,
    "units_on": "samples", "alone": [], "went_on_from": "", "learned": [],
}  # fmt: skip


def test_it_tells_what_was_learned_from_what() -> None:
    text = card(TOLD, "sha")
    for said in ("480 pictures", "age 0.50", "`sha`", "7 persons in 9 clips", "renderings of samples"):
        assert said in text
    assert "fitted with scikit-learn" in text and "All were refined" in text and "276 renderings" in text
    assert "once more" not in text
    assert "age was refined once more" in card({**TOLD, "alone": ["age"]}, "sha")
    assert "refined" not in card({**TOLD, "refined_on": 0}, "sha")


def test_going_on_from_a_folder_is_told() -> None:
    text = card({**TOLD, "fit": {}, "alone": ["age"], "went_on_from": "assets/directions"}, "sha")
    assert "went on from `assets/directions`" in text and "fitted with scikit-learn" not in text
    assert "age was then refined" in text and "not known" in text


def test_edits_learned_beside_others_are_told() -> None:
    both = ["surprise", "anger"]
    told = {**TOLD, "went_on_from": "assets/directions", "learned": both, "alone": both}
    text = card(told, "sha")
    assert (
        "only surprise and anger\nwere fitted" in text
        and "edits of `assets/directions`, which are as they were" in text
    )
    assert "surprise and anger were then refined" in text and "these were set to their units" in text
