"""The card of the directions says what was done, and nothing that was not."""

from __future__ import annotations

import pytest

from services.directions_card import card


@pytest.mark.parametrize(("codes", "encoded"), [(0, 0), (276, 96)])
def test_refining_is_told_where_there_was_any(codes: int, encoded: int) -> None:
    counted = {"codes": codes, "encoded": encoded}
    text = card({"fit": {"age": 0.5}, "samples": 480, "refined_on": counted, "codes": 24, "edits": {}}, "sha")
    assert "480 pictures" in text and "age 0.50" in text and "`sha`" in text
    assert ("refined by gradient" in text) is bool(codes)
    assert ("276 more renderings" in text) is ("and 96 codes" in text) is bool(codes)
