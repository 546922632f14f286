import io

import cv2
import numpy as np
import pytest
from clip_maker import make_clip, make_sound, picture
from PIL import Image

from datamodules.images import read_image, sniff
from datamodules.types import BadInputError

COLOUR = picture(5, 40, 30)
LIMIT = 10_000


def encoded(image, kind="PNG", **how):
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_formats_are_told_by_their_bytes_and_read(kind, tmp_path):
    how = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(Image.fromarray(COLOUR), kind, **how)
    assert sniff(data) == f"image/{kind.lower()}"
    path = tmp_path / "wrong.txt"
    path.write_bytes(data)
    for source in (data, path):
        pixels = read_image(source, LIMIT)
        assert pixels.shape == (30, 40, 3) and pixels.dtype == np.uint8 and pixels.flags.writeable
        assert np.abs(pixels.astype(int) - COLOUR).mean() < (0.01 if kind in ("PNG", "WEBP", "BMP", "TIFF") else 6)


def test_grey_palette_and_cmyk():
    grey = cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY)
    for image in (
        read_image(encoded(Image.fromarray(grey)), LIMIT),
        read_image(encoded(Image.fromarray(grey), "JPEG", quality=98), LIMIT),
    ):
        assert image.shape == (30, 40, 3) and np.abs(image - grey[..., None].astype(int)).max() <= 4
    palette = Image.fromarray(COLOUR).quantize(256)
    np.testing.assert_array_equal(read_image(encoded(palette), LIMIT), np.asarray(palette.convert("RGB")))
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    assert np.abs(read_image(encoded(cmyk, "JPEG", quality=98), LIMIT).astype(int) - COLOUR).mean() < 6


def test_sixteen_bits_are_scaled_not_clipped():
    for deep in (COLOUR[..., 0], COLOUR):
        wide = deep.astype(np.uint16) * 257
        data = cv2.imencode(".png", wide if wide.ndim == 2 else wide[..., ::-1])[1].tobytes()
        expected = deep if deep.ndim == 3 else np.repeat(deep[..., None], 3, 2)
        np.testing.assert_array_equal(read_image(data, LIMIT), expected)


def test_alpha_lies_over_white():
    alpha = np.full((30, 40, 1), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 128
    pixels = read_image(encoded(Image.fromarray(np.concatenate([COLOUR, alpha], 2))), LIMIT)
    assert (pixels[:10] == 255).all() and (pixels[20:] == COLOUR[20:]).all()
    half = COLOUR[10:20] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(pixels[10:20] - half).max() <= 1.01


@pytest.mark.parametrize(("tag", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_turns_the_image(tag, turn):
    exif = Image.Exif()
    exif[0x0112] = tag
    data = encoded(Image.fromarray(COLOUR), "JPEG", quality=98, exif=exif)
    assert np.abs(read_image(data, LIMIT).astype(int) - np.rot90(COLOUR, turn)).mean() < 5


def test_other_bytes_are_told_and_refused(tmp_path):
    video = make_clip(tmp_path / "a.mp4", frames=2).read_bytes()
    kinds = {
        b"just words, and caf\xc3\xa9": "text/plain",
        video: "video/mp4",
        make_clip(tmp_path / "a.mov", frames=2).read_bytes(): "video/quicktime",
        make_clip(tmp_path / "a.mkv", frames=2).read_bytes(): "video/x-matroska",
        make_clip(tmp_path / "a.webm", frames=2, codec="libvpx-vp9").read_bytes(): "video/webm",
        make_clip(tmp_path / "a.avi", frames=2, codec="mpeg4").read_bytes(): "video/x-msvideo",
        make_clip(tmp_path / "a.ts", frames=2).read_bytes(): "video/mp2t",
        make_sound(tmp_path / "a.m4a").read_bytes(): "audio/mp4",
        b"\x00\x01\x02" * 9: "application/octet-stream",
        b"RIFF\0\0\0\0WAVE": "audio/wav",
    }
    for data, kind in kinds.items():
        assert sniff(data) == kind
        with pytest.raises(BadInputError, match="no image but") as caught:
            read_image(data, LIMIT)
        assert caught.value.status == 415
    assert sniff(b"") == "application/octet-stream"


def test_unusable_images_get_one_clear_line(tmp_path):
    data = encoded(Image.fromarray(COLOUR))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))
    for source, limit, status, words in [
        (data, 1199, 413, "1199 are allowed"),
        (b"", LIMIT, 422, "empty"),
        (encoded(noise)[:400], LIMIT, 422, "damaged"),
        (encoded(noise, "JPEG")[:600], LIMIT, 422, "damaged"),
        (data[:20], LIMIT, 422, "damaged"),
        (tmp_path / "none.png", LIMIT, 422, "does not exist"),
        (tmp_path, LIMIT, 422, "not a file"),
    ]:
        with pytest.raises(BadInputError, match=words) as caught:
            read_image(source, limit)
        assert caught.value.status == status and "\n" not in str(caught.value)
    assert read_image(data, 1200).shape == (30, 40, 3)
