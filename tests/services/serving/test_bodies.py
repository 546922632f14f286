import numpy as np
import pytest

from datamodules.types import BadInputError
from services.serving.bodies import WIDEST_JPEG, Body, encode_image
from services.serving.request_options import edit_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, True) for word in ("true", "1", "yes", "On", " t ")),
        *((word, False) for word in ("false", "0", "NO")),
    ],
)
def test_all_flags_are_read_alike(text: str, value: bool) -> None:
    assert Body(options={"codes": text}).flag("codes") is value
    assert edit_options({"preview": text}).preview is value
    assert edit_options({"balance": text}).balance is value


@pytest.mark.parametrize("text", ["perhaps", "", "2"])
def test_what_is_no_flag_is_said_alike(text: str) -> None:
    with pytest.raises(BadInputError) as codes:
        Body(options={"codes": text}).flag("codes")
    with pytest.raises(BadInputError) as preview:
        edit_options({"preview": text})
    assert str(codes.value) == f"cannot use codes={text!r}: it must be true or false"
    assert str(preview.value) == str(codes.value).replace("codes", "preview")


def test_times_are_read_as_in_the_shell() -> None:
    options = edit_options({"start": " 2.5s ", "end": "1:30"})
    assert (options.start, options.end) == (2.5, 90.0)
    with pytest.raises(BadInputError, match=r"start='nan'.* write seconds like 2.5s or minutes like 1:30"):
        edit_options({"start": "nan"})
    for text in ("9" * 400 + ":01", "1:" + "9" * 5000, "9" * 400, "9" * 10):
        with pytest.raises(BadInputError, match="cannot read the time"):
            edit_options({"start": text})


def test_what_no_jpeg_holds_is_said() -> None:
    wide = np.zeros((1, WIDEST_JPEG + 1, 3), np.uint8)
    with pytest.raises(BadInputError, match="accept image/png"):
        encode_image(wide, "image/jpeg")
    assert encode_image(wide, "image/png")[:4] == b"\x89PNG"
    assert encode_image(wide[:, 1:], "image/jpeg")[:2] == b"\xff\xd8"
