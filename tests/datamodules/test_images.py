import io
import struct

import cv2
import numpy as np
import pytest
from clip_maker import make_clip, make_sound, picture
from PIL import Image, ImageCms
from umasks import mode, umask

from datamodules.disk import NotWrittenError
from datamodules.images import LONGEST_SIDE, count_frames, read_image, sniff, write_image
from datamodules.types import BadInputError

COLOUR = picture(5, 40, 30)
LIMIT = 10_000


def encoded(image, kind="PNG", **how):
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_formats_are_told_by_their_bytes_and_read(kind, tmp_path):
    how = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
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


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("level", "shown"), [(0, 0), (200, 0), (300, 1), (40_000, 155), (65_535, 255)])
def test_sixteen_bits_of_grey_are_a_share_of_all_however_dark(kind, level, shown):
    data = encoded(Image.fromarray(np.full((30, 40), level, np.uint16)), kind)
    assert (read_image(data, LIMIT) == shown).all()


def test_grey_of_floats_and_of_32_bits_is_scaled_by_what_it_reaches():
    grey = COLOUR[..., 0].astype(np.int32)
    for values in (grey / 255, grey, grey * 257.0):
        read = read_image(encoded(Image.fromarray(values.astype(np.float32)), "TIFF"), LIMIT)
        np.testing.assert_array_equal(read[..., 1], grey)
    for whole in (grey, grey * 257):
        read = read_image(encoded(Image.fromarray(whole.astype(np.int32)), "TIFF"), LIMIT)
        np.testing.assert_array_equal(read[..., 1], grey)
    holed = (grey / 255).astype(np.float32)
    holed[3, 4] = np.nan
    read = read_image(encoded(Image.fromarray(holed), "TIFF"), LIMIT)
    assert read[3, 4, 0] == 0 and (read[5:, :, 2] == grey[5:]).all()


def test_alpha_lies_over_white():
    alpha = np.full((30, 40, 1), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 128
    pixels = read_image(encoded(Image.fromarray(np.concatenate([COLOUR, alpha], 2))), LIMIT)
    assert (pixels[:10] == 255).all() and (pixels[20:] == COLOUR[20:]).all()
    half = COLOUR[10:20] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(pixels[10:20] - half).max() <= 1.01


TURNS = {
    1: COLOUR,
    2: COLOUR[:, ::-1],
    3: COLOUR[::-1, ::-1],
    4: COLOUR[::-1],
    5: COLOUR.transpose(1, 0, 2),
    6: np.rot90(COLOUR, 3),
    7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(COLOUR, 1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("tag", [*TURNS, 9])
def test_exif_turns_the_image(kind, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    how = {"WEBP": {"lossless": True}, "TIFF": {}, "PNG": {}}.get(kind, {"quality": 98})
    pixels, wanted = read_image(encoded(Image.fromarray(COLOUR), kind, exif=exif, **how), LIMIT), TURNS.get(tag)
    assert np.abs(pixels.astype(int) - (COLOUR if wanted is None else wanted)).mean() < 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("tag", "typed", "value"),
    [
        (0x011A, 2, b"72\0\0"),  # XResolution, ResolutionUnit as ASCII
        (0x0128, 2, b"in.\0"),
        (0x0213, 7, b"\1\0\0\0"),  # YCbCrPositioning, ImageWidth as UNDEFINED
        (0x0100, 7, b"\x28\0\0\0"),
    ],
)
def test_a_tag_of_a_wrong_type_beside_the_orientation_does_no_harm(kind, tag, typed, value):
    rows = sorted([(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (tag, typed, 4, value)])
    table = struct.pack("<H", 2) + b"".join(struct.pack("<HHI4s", *row) for row in rows) + bytes(4)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + table
    data = encoded(Image.fromarray(COLOUR), kind, exif=exif, quality=98, lossless=kind == "WEBP")
    assert np.abs(read_image(data, LIMIT).astype(int) - TURNS[6]).mean() < 5


def profile(space, pcs, tags):
    """The bytes of an ICC profile, version 2: a header, the table of its tags, the tags."""
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    white = struct.pack(">3i", *(round(65536 * x) for x in (0.9642, 1.0, 0.8249)))
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s12s4s", 0, b"", 0x02400000, kind, space, pcs, bytes(12), b"acsp")
    head = (head + bytes(28) + white).ljust(128, b"\0")
    return struct.pack(">I", 128 + len(table) + len(body)) + head[4:] + table + body


def display_p3():
    """Primaries of Display P3 with a gamma of 2.2."""
    columns = {
        b"r": (0.51512, 0.24120, -0.00105),
        b"g": (0.29198, 0.69225, 0.04189),
        b"b": (0.1571, 0.06657, 0.78407),
    }
    tags = {b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * x) for x in (0.9642, 1.0, 0.8249)))}
    for letter, xyz in columns.items():
        tags[letter + b"XYZ"] = b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * x) for x in xyz))
        tags[letter + b"TRC"] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256))
    return profile(b"RGB ", b"XYZ ", tags)


def press():
    """A press whose four inks each darken by the same, so that every print is grey."""
    ramp = bytes(range(256))
    corners = b"".join(bytes([255 - 60 * bin(k).count("1"), 128, 128]) for k in range(16))
    matrix = struct.pack(">9i", *(65536 * (k % 4 == 0) for k in range(9)))
    table = b"mft1" + bytes([0, 0, 0, 0, 4, 3, 2, 0]) + matrix + 4 * ramp + corners + 3 * ramp
    return profile(b"CMYK", b"Lab ", {b"A2B0": table})


def through(image, icc):
    """The image in sRGB, as ImageCms turns it."""
    return np.asarray(
        ImageCms.profileToProfile(image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB")
    )


def test_embedded_profiles_are_brought_to_srgb():
    icc, image = display_p3(), Image.fromarray(COLOUR)
    read = read_image(encoded(image, icc_profile=icc), LIMIT)
    np.testing.assert_array_equal(read, through(image, icc))
    # P3's red lies outside sRGB; a muted one comes out more vivid, white stays white.
    one = np.array([[[180, 90, 90], [255, 255, 255]]], np.uint8)
    ((muted, white),) = read_image(encoded(Image.fromarray(one), icc_profile=icc), LIMIT).astype(int)
    assert muted[0] > 185 and muted[1] < 88 and np.abs(white - 255).max() <= 1
    palette = image.quantize(64)
    np.testing.assert_array_equal(
        read_image(encoded(palette, icc_profile=icc), LIMIT), through(palette.convert("RGB"), icc)
    )


def test_alpha_and_orientation_outlive_the_profile():
    icc, exif = display_p3(), Image.Exif()
    exif[0x0112] = 3
    alpha = np.full((30, 40, 1), 255, np.uint8)
    alpha[:10] = 0
    image = Image.fromarray(np.concatenate([COLOUR, alpha], 2))
    pixels = read_image(encoded(image, icc_profile=icc, exif=exif), LIMIT)[::-1, ::-1]
    assert (pixels[:10] == 255).all()
    np.testing.assert_array_equal(pixels[10:], through(image.convert("RGB"), icc)[10:])


def test_a_profile_of_cmyk_is_used():
    image = Image.fromarray(COLOUR).convert("CMYK")
    pixels = read_image(encoded(image, "TIFF", icc_profile=press()), LIMIT)
    np.testing.assert_array_equal(pixels, through(image, press()))
    assert (np.ptp(pixels.astype(int), axis=2) <= 3).all() and np.ptp(pixels) > 50


@pytest.mark.parametrize(
    "icc", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"garbage" * 50]
)
def test_profiles_of_srgb_and_damaged_ones_change_nothing(icc):
    data = encoded(Image.fromarray(COLOUR), icc_profile=icc)
    assert icc in Image.open(io.BytesIO(data)).info["icc_profile"]
    np.testing.assert_array_equal(read_image(data, LIMIT), COLOUR)
    grey = encoded(Image.fromarray(COLOUR[..., 0]), icc_profile=display_p3())  # not a profile for grey
    np.testing.assert_array_equal(read_image(grey, LIMIT)[..., 1], COLOUR[..., 0])


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


def test_an_image_of_a_phone_that_is_not_read_is_called_an_image():
    with pytest.raises(BadInputError, match="is image/heic, which is not read; save it as PNG") as caught:
        read_image(b"\0\0\0\x18ftypheic" + bytes(40), LIMIT)
    assert caught.value.status == 415


def test_no_image_is_longer_than_what_can_be_warped():
    for shape in ((1, LONGEST_SIDE), (LONGEST_SIDE, 1)):
        data = encoded(Image.fromarray(np.zeros(shape, np.uint8)))
        image = read_image(data, 10**5)
        assert cv2.warpAffine(image, np.eye(3)[:2], (8, 8)).shape == (8, 8, 3)
        longer = encoded(Image.fromarray(np.zeros([side + (side > 1) for side in shape], np.uint8)))
        with pytest.raises(BadInputError, match="make it smaller") as caught:
            read_image(longer, 10**5)
        assert caught.value.status == 413
    with pytest.raises(cv2.error):
        cv2.warpAffine(np.zeros((1, LONGEST_SIDE + 1, 3), np.uint8), np.eye(3)[:2], (8, 8))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF", "PNG", "TIFF"])
def test_frames_of_an_animation_are_counted(kind, tmp_path):
    shown = [Image.fromarray(np.roll(COLOUR, 5 * index, 1)) for index in range(4)]
    path = tmp_path / "a"
    path.write_bytes(encoded(shown[0], kind))
    assert count_frames(path) == 1
    path.write_bytes(encoded(shown[0], kind, save_all=True, append_images=shown[1:]))
    assert count_frames(path) == (1 if kind == "TIFF" else 4)
    path.write_bytes(path.read_bytes()[:30])
    assert count_frames(path) == 1
    path.write_bytes(b"text")
    assert count_frames(path) == 1


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
        assert "object at" not in str(caught.value)
    assert read_image(data, 1200).shape == (30, 40, 3)


def test_a_damaged_avif_gets_one_clear_line(tmp_path):
    data = encoded(Image.fromarray(COLOUR), "AVIF")
    head = data.index(b"mdat") + 4
    for broken in (data.replace(b"pitm", b"none"), data[:head] + bytes(len(data) - head)):
        with pytest.raises(BadInputError, match="damaged") as caught:
            read_image(broken, LIMIT)
        assert isinstance(caught.value.__cause__, RuntimeError) and "\n" not in str(caught.value)
        (tmp_path / "a.avif").write_bytes(broken)
        assert count_frames(tmp_path / "a.avif") == 1


@pytest.mark.parametrize(("mask", "wanted"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_who_may_read_a_picture_is_for_the_umask_to_say(tmp_path, mask, wanted):
    with umask(mask):
        write_image(tmp_path / "a.png", COLOUR)
    assert mode(tmp_path / "a.png") == wanted
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", LIMIT), COLOUR)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_that_the_disk_does_not_take_is_said(tmp_path):
    with pytest.raises(NotWrittenError, match="cannot write"):
        write_image(tmp_path / "none" / "a.png", COLOUR)
