"""What the headers of an image say."""

from __future__ import annotations

from services.serving.handling import LONGEST_STRENGTHS, MODEL_HEADER, headers_of, strengths_line
from services.serving.openapi import STRENGTHS_HEADER


def test_strengths_of_each_face_are_pairs_that_can_be_sent_again() -> None:
    assert (
        strengths_line([{"age": 20.0, "smile": -0.4125}, {"age": 1234.5678}])
        == "age=20, smile=-0.4125; age=1234.5678"
    )
    # Names are their makers': a header holds ASCII, and commas and semicolons are between pairs.
    assert strengths_line([{"Größe, a;b=c": 0.5}]) == "Gr%C3%B6%C3%9Fe%2C%20a%3Bb%3Dc=0.5"
    assert headers_of("m/1", (), [{"age": 2.0}]) == {MODEL_HEADER: "m/1", STRENGTHS_HEADER: "age=2"}
    assert headers_of("m/1", ()) == {MODEL_HEADER: "m/1"}


def test_the_strengths_of_very_many_faces_are_no_longer_than_a_header() -> None:
    line = strengths_line([{"age": 20.0}] * 5000)
    assert line.startswith("age=20; age=20; ") and line.endswith("age=20; ...")
    assert LONGEST_STRENGTHS - 20 < len(line) < LONGEST_STRENGTHS + 4
    assert strengths_line([{f"{number:064}": 1.0 for number in range(100)}]) == "..."
