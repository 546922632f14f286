"""What is said of bad input."""

from __future__ import annotations

import pytest

from datamodules.types import BadInputError


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("face.jpg is no image; give a JPEG", "face.jpg is no image; give a JPEG"),
        ("müde … 日本 '-20 °'", "müde … 日本 '-20 °'"),
        ("at 3.04\u202fPM \U0001f469\u200d\U0001f680.mov", "at 3.04\u202fPM \U0001f469\u200d\U0001f680.mov"),
        ("its pickle asks for \norch.load", "its pickle asks for \\norch.load"),
        ("\x1b[31mred\x00\r\u2028\ud800", "\\x1b[31mred\\x00\\r\\u2028\\ud800"),
    ],
)
def test_a_message_is_one_line_whatever_a_file_brought_into_it(message: str, shown: str) -> None:
    said = str(BadInputError(message, 415))
    assert said == shown and len(said.splitlines()) == 1
    assert said.encode()
