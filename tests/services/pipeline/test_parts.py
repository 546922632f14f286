"""Parts of a face by height, against where a real face has its features, and in the mask of an edit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pipeline_toys import ToyJudges

from datamodules.alignment import crop_frame
from datamodules.images import read_image
from datamodules.shards import to_tensor
from modules.editing.directions import Direction, EditRequest, EditSet
from modules.model_folder import load_model
from modules.perception.parsing import Regions
from services.pipeline.crops import edit_crops
from services.pipeline.invert import invert_image
from services.pipeline.models import SHIPPED_DIRECTIONS, SHIPPED_POSE_EDITOR, SHIPPED_STYLESPACE, load_edits
from services.pipeline.options import EditOptions, PipelineConfig
from services.pipeline.parts import part_of
from services.settings import load_params

PARAMS = load_params(environment={})
CONFIG = PARAMS.section("pipeline", PipelineConfig).parts
LIDS, NOSE_BASE, MOUTH, BROWS = (145, 374), (2,), (61, 291, 0, 17), (105, 334)
"""Of the 468 mesh points."""


def test_the_two_parts_are_the_whole_and_each_begins_at_the_line() -> None:
    lower, upper = part_of(["smile"], 200, CONFIG), part_of(["eyes_open", "gaze"], 200, CONFIG)
    assert lower is not None and upper is not None and lower.shape == (200, 1)
    np.testing.assert_allclose(lower + upper, 1, atol=1e-6)
    assert (np.diff(lower[:, 0]) >= 0).all()
    top, bottom = (round(200 * (CONFIG.line + sign * CONFIG.soft / 2)) for sign in (-1, 1))
    assert not lower[:top].any() and (lower[bottom:] == 1).all()
    assert lower[round(200 * CONFIG.line), 0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("names", [[], ["age"], ["smile", "age"], ["smile", "eyes_open"]])
def test_all_other_edits_may_change_the_whole_face(names: list[str]) -> None:
    assert part_of(names, 64, CONFIG) is None


def test_every_edit_that_is_named_is_offered() -> None:
    shipped = (SHIPPED_DIRECTIONS, SHIPPED_STYLESPACE, SHIPPED_POSE_EDITOR)
    sha = load_model(SHIPPED_DIRECTIONS).config["generator_sha256"]
    assert {*CONFIG.lower, *CONFIG.upper} <= {name for folder in shipped for name in load_edits(folder, sha)}


def test_settings_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="'smile' cannot be of the lower and of the upper part"):
        replace(CONFIG, upper=("smile",))
    for wrong in ({"soft": 0.0}, {"line": 0.97}, {"line": 0.01}):
        with pytest.raises(ValueError, match="inside the crop"):
            replace(CONFIG, **wrong)


def test_eyes_and_brows_of_a_real_face_lie_above_and_the_mouth_below(toy_models, picture) -> None:
    image, models = read_image(picture, 10**8), toy_models
    crop = crop_frame(image, invert_image(image, models, EditOptions()).crop_to_frame, 256)
    height = models.judges.mesh(to_tensor(crop[None])).points[0, :, 1].numpy()
    lower = part_of(["smile"], 256, CONFIG)
    assert lower is not None
    rows = np.clip(height.round().astype(int), 0, 255)
    assert not lower[rows[[*LIDS, *BROWS]]].any()
    assert (lower[rows[[*NOSE_BASE, *MOUTH]]] == 1).all()


class Everywhere(ToyJudges):
    """The whole crop is face."""

    def regions(self, images: torch.Tensor) -> Regions:
        whole = torch.ones(len(images), 1, *images.shape[2:])
        return Regions(whole, whole, 1 - whole)


@pytest.mark.parametrize(
    ("names", "options", "above", "below"),
    [
        (["smile"], {}, 0, 1),
        (["eyes_open"], {}, 1, 0),
        (["smile", "eyes_open"], {}, 1, 1),
        (["smile", "age"], {}, 1, 1),
        (["smile", "turn"], {}, 1, 1),
        (["smile"], {"region": "face"}, 1, 1),
        (["smile"], {"region": "head"}, 1, 1),
        (["smile"], {"paste": "difference"}, 0, 1),
        (["smile"], {"paste": "replace"}, 1, 1),
        (["grin"], {}, 0, 1),
        (["gaze"], {}, 1, 1),
    ],
)
def test_the_mask_is_that_of_the_part(toy_models, names: list[str], options: dict, above: int, below: int) -> None:
    step = torch.zeros_like(toy_models.edits["age"].vector)
    step[0, 0] = 0.1
    sha = toy_models.generator.sha256
    edits = [Direction(name, "steps", step, -1, 1, sha) for name in ("smile", "eyes_open", "age")]
    edits.append(Direction("turn", "degrees", step, -1, 1, sha))
    # Imported ones are of what they were set to, whatever their name.
    edits.append(Direction("grin", "smiles", step, -1, 1, sha, attribute="smile"))
    edits.append(Direction("gaze", "years", step, -1, 1, sha, attribute="age"))
    judges = Everywhere(toy_models.judges.detection, "alex", "cpu")
    models = replace(toy_models, edits=EditSet(edits), judges=judges)
    target = torch.zeros(1, 3, 64, 64)
    asked = [EditRequest(name, 1.0) for name in names] + [EditRequest("age", 0.0)]
    (crop,) = edit_crops(models.mean_codes(1), target, asked, models, EditOptions(**options), 64)
    assert crop.mask[20, 32] == pytest.approx(above, abs=1e-3)
    assert crop.mask[50, 32] == pytest.approx(below, abs=1e-3)
