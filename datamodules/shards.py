"""Many pictures in one safetensors file: JPEG bytes one after the other, and where each begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from datamodules.disk import beside, not_written
from datamodules.types import BadInputError

Arrays = Mapping[str, NDArray[Any]]


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """``(H, W, 3)`` uint8 RGB as JPEG, colour in full resolution."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    return bytes(cv2.imencode(".jpg", pixels[..., ::-1], settings)[1].tobytes())


def save_shard(path: Path, arrays: Arrays, jpegs: Sequence[bytes], metadata: dict[str, str]) -> None:
    """Write a shard whole or not at all; ``jpeg`` and ``offsets`` are added to ``arrays``.

    Raises ``NotWrittenError`` where that cannot be.
    """
    offsets = np.cumsum([0, *map(len, jpegs)], dtype=np.int64)
    whole = {**arrays, "jpeg": np.frombuffer(b"".join(jpegs), np.uint8), "offsets": offsets}
    try:
        with beside(path) as part:
            # safetensors makes files that only their owner reads; who may is for the umask to say.
            part.touch()
            mode = part.stat().st_mode
            save_file({name: np.ascontiguousarray(value) for name, value in whole.items()}, part, metadata)
            part.chmod(mode & 0o777)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from error


def metadata_of(path: Path) -> dict[str, str] | None:
    """What was said when a shard was saved; None where there is no whole one."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as shard:
            return dict(shard.metadata() or {})
    except (SafetensorError, OSError):
        return None


class Shard:
    """One file of pictures, opened when first read. Raises ``BadInputError`` for a damaged one."""

    def __init__(self, path: Path, remake: str) -> None:
        self.path, self._remake = path, remake
        self._open: Any = None
        try:
            with safe_open(path, "numpy") as shard:
                self.offsets: NDArray[np.int64] = shard.get_tensor("offsets")
                self.metadata: dict[str, str] = dict(shard.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise self._damaged() from error

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel to the loader's workers.
        return {**self.__dict__, "_open": None}

    def array(self, name: str) -> NDArray[Any]:
        """One whole array."""
        whole: NDArray[Any] = self._file().get_tensor(name)
        return whole

    def rows(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Rows ``[first, last)`` of an array; only those are read."""
        part: NDArray[Any] = self._file().get_slice(name)[first:last]
        return part

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """One picture, ``(H, W, 3)`` uint8 RGB."""
        jpeg = self.rows("jpeg", int(self.offsets[index]), int(self.offsets[index + 1]))
        image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise self._damaged()
        return np.asarray(image, np.uint8)

    def _file(self) -> Any:
        if self._open is None:
            self._open = safe_open(self.path, "numpy")
        return self._open

    def _damaged(self) -> BadInputError:
        return BadInputError(f"{self.path} is damaged; run `{self._remake}` to remake it")


def to_tensor(pixels: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """``(…, H, W, 3)`` uint8 to ``(…, 3, H, W)`` float32 in [-1, 1]; bytes, not floats, go to the device."""
    return torch.from_numpy(pixels).to(device).movedim(-1, -3).float().div_(127.5).sub_(1)
