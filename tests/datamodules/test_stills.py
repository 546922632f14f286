from pathlib import Path

import numpy as np
from clip_maker import picture
from PIL import Image

from datamodules.images import write_image
from datamodules.stills import HeldOut, pack_stills


def test_a_still_that_cannot_be_decoded_is_refused_and_the_others_are_packed(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.avif"
    write_image(good, picture(5, 40, 40))
    Image.fromarray(picture(6, 40, 40)).save(bad)
    data = bad.read_bytes()
    head = data.index(b"mdat") + 4
    bad.write_bytes(data[:head] + bytes(len(data) - head))
    nobody = HeldOut([], 0.5, lambda images: images.new_zeros(len(images), 1))
    jpegs, refused = pack_stills([bad, good], 32, 90, 10**6, nobody)
    assert len(jpegs) == 1 and np.asarray(Image.open(good)).shape == (40, 40, 3)
    ((name, reason),) = refused
    assert name == "bad.avif" and "damaged" in reason
