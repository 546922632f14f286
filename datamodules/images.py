"""Still images in and out: what the bytes are, their pixels, and files of them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from datamodules.disk import write_whole
from datamodules.types import BadInputError

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/gif": "GIF",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
}
STILLS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Endings of the names that ``write_image`` takes."""
HEAD = 512
"""Bytes that are enough to tell."""
ANIMATED = ("image/gif", "image/webp", "image/avif", "image/png")
"""Formats that hold pictures to be shown one after another; the pages of a TIFF are no such thing."""
LONGEST_SIDE = 32_766
"""Pixels on a side that OpenCV warps: it keeps coordinates in 16 bits."""
COLOURS = {"RGB": "RGB", "RGBA": "RGB", "P": "RGB", "PA": "RGB", "L": "L", "LA": "L", "CMYK": "CMYK"}
"""Pillow's mode of an image to the mode of its colours without alpha, where a profile can speak of them."""
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The EXIF tag's values to what puts the image upright."""
_DAMAGES = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, struct.error)
"""Pillow has no one error for damaged data: each decoder raises its own."""


def sniff(data: bytes) -> str:
    """MIME type that the bytes themselves show, whatever their sender says.

    Knows images, video and audio containers; everything else is ``application/octet-stream``, and text is
    ``text/plain``.
    """
    head = data[:HEAD]
    fixed = {
        b"\x89PNG\r\n\x1a\n": "image/png",
        b"\xff\xd8\xff": "image/jpeg",
        b"GIF87a": "image/gif",
        b"GIF89a": "image/gif",
        b"BM": "image/bmp",
        b"II*\x00": "image/tiff",
        b"MM\x00*": "image/tiff",
        b"FLV\x01": "video/x-flv",
        b"OggS": "video/ogg",
        b"\x00\x00\x01\xba": "video/mpeg",
        b"\x00\x00\x01\xb3": "video/mpeg",
        b"0&\xb2u\x8ef\xcf\x11": "video/x-ms-asf",
        b"ID3": "audio/mpeg",
        b"fLaC": "audio/flac",
        b"%PDF": "application/pdf",
    }
    for magic, kind in fixed.items():
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF":
        riff = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo", b"WAVE": "audio/wav"}
        return riff.get(head[8:12], "application/octet-stream")
    if head[:4] == b"\x1aE\xdf\xa3":
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        avif = dict.fromkeys((b"avif", b"avis"), "image/avif")
        stills = avif | dict.fromkeys((b"heic", b"heix", b"mif1"), "image/heic")
        named = {b"qt  ": "video/quicktime", b"M4A ": "audio/mp4", **stills}
        return named.get(brand, "video/mp4")
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free"):
        return "video/quicktime"
    if len(data) > 188 and data[0] == data[188] == 0x47:
        return "video/mp2t"
    return "text/plain" if head and _is_text(head) else "application/octet-stream"


def read_image(source: bytes | Path, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a still image as ``(H, W, 3)`` uint8 RGB, turned as its EXIF asks.

    Colours are brought to sRGB where a profile is embedded; one that cannot be used, or that comes with 16-bit
    grey, is ignored. Grey is repeated, alpha is laid over white, 16 bits are rounded down to 8, floats up to 1
    are spread over 255; of an animation the first frame counts. Raises ``BadInputError``: 415 for what is no
    image, 413 for more than ``max_pixels`` or a side beyond ``LONGEST_SIDE``, 422 for one that is missing, empty
    or damaged.
    """
    name, data = _bytes_of(source)
    if not data:
        raise BadInputError(f"{name} is empty; give a PNG, JPEG or WebP image")
    kind = sniff(data)
    if kind.startswith("image/") and kind not in FORMATS:
        raise BadInputError(f"{name} is {kind}, which is not read; save it as PNG, JPEG or WebP", status=415)
    if kind not in FORMATS:
        raise BadInputError(f"{name} is no image but {kind}; give a PNG, JPEG or WebP image", status=415)
    try:
        with Image.open(io.BytesIO(data), formats=[FORMATS[kind]]) as image:
            if image.width * image.height > max_pixels:
                raise BadInputError(
                    f"{name} has {image.width}×{image.height} pixels, {max_pixels} are allowed; make it smaller",
                    status=413,
                )
            if max(image.size) > LONGEST_SIDE:
                raise BadInputError(
                    f"{name} is {image.width}×{image.height}, {LONGEST_SIDE} pixels a side are allowed; "
                    "make it smaller",
                    status=413,
                )
            image.load()
            return _as_rgb(_in_srgb(_upright(image)))
    except BadInputError:
        raise
    except Image.DecompressionBombError as error:
        raise BadInputError(f"{name} has more pixels than are allowed; make it smaller", status=413) from error
    except UnidentifiedImageError as error:
        raise BadInputError(f"{name} is damaged (not all of it is {kind}); save it again") from error
    except _DAMAGES as error:
        raise BadInputError(f"{name} is damaged ({str(error).splitlines()[0]}); save it again") from error


def count_frames(path: Path) -> int:
    """Frames of an animated GIF, WebP, AVIF or PNG; 1 for all other files, damaged ones too."""
    with path.open("rb") as stream:
        kind = sniff(stream.read(HEAD))
    if kind not in ANIMATED:
        return 1
    try:
        with Image.open(path, formats=[FORMATS[kind]]) as image:
            return int(getattr(image, "n_frames", 1))
    except (Image.DecompressionBombError, *_DAMAGES):
        return 1  # what is wrong with it is for read_image to say


def _bytes_of(source: bytes | Path) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return "the image", source
    if not source.is_file():
        raise BadInputError(f"{source} {'is not a file' if source.exists() else 'does not exist'}; check the name")
    try:
        return source.name, source.read_bytes()
    except OSError as error:
        raise BadInputError(f"{source} cannot be read ({error.strerror}); check its permissions") from error


def _upright(image: Image.Image) -> Image.Image:
    # Pillow's exif_transpose writes all tags anew, and fails where another one is of a wrong type.
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def _in_srgb(image: Image.Image) -> Image.Image:
    """The image as its embedded profile means it; itself where there is none to use, or sRGB's."""
    embedded, mode = image.info.get("icc_profile"), COLOURS.get(image.mode)
    if not embedded or mode is None:
        return image
    try:
        profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(embedded)), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(profile, srgb, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except (ImageCms.PyCMSError, OSError):
        return image
    if mode == "RGB" and _changes_nothing(transform):
        return image
    turned = transform.apply(image.convert(mode))
    if image.has_transparency_data:
        turned.putalpha(image.convert("RGBA").getchannel("A"))
    return turned


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    # Profiles of sRGB have many names, and tables that differ in the last digit: only what they do tells.
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
    moved = np.asarray(transform.apply(Image.fromarray(colours))).astype(int) - colours
    return bool(np.abs(moved).max() <= 1)


def _as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_deep_grey(image)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return np.array(image.convert("RGB"))


def _deep_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of 16 or 32 bits as 8, which Pillow clips where it should scale it."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode == "F" and values.max() <= 1:
        values = (values * 255).round()
    elif image.mode.startswith("I;16") or values.max() > 255:  # what 32 bits are a share of is not said
        values = values / 257
    return np.clip(values, 0, 255).astype(np.uint8)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The cut may split the last letter.
        text = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else "\0"
    return all(letter.isprintable() or letter.isspace() for letter in text)


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write ``(H, W, 3)`` uint8 RGB in the format of the name's ending, whole or not at all.

    Raises ``NotWrittenError`` where the disk does not take it.
    """
    done, data = cv2.imencode(path.suffix.lower(), np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise BadInputError(f"cannot write {path.name}: the name must end in {', '.join(STILLS)}")
    write_whole(path, data.tobytes())
