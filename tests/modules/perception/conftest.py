"""The picture on which LiteRT's own answers were taken."""

import av
import numpy as np
import pytest

from modules.assets import asset_path


@pytest.fixture(scope="session")
def frame() -> np.ndarray:
    """Frame 10 of ``single_face.mp4``, RGB."""
    with av.open(str(asset_path("clips", "single_face.mp4"))) as clip:
        for index, picture in enumerate(clip.decode(video=0)):
            if index == 10:
                return picture.to_ndarray(format="rgb24")
    raise AssertionError("the clip has too few frames")
