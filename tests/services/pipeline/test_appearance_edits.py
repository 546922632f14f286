"""Edits of styles and the random identity on their way through the pipeline: what is drawn, where, how pasted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pipeline_toys import NUM_WS, W_DIM, ToyGenerator, ToyJudges

from datamodules.images import read_image
from datamodules.types import BadInputError
from modules.editing.directions import EditRequest, EditSet
from modules.editing.random_identity import RandomIdentity
from modules.editing.stylespace import ChannelEdit, joined
from modules.perception.detection import FaceObservation
from modules.perception.parsing import Regions
from services.pipeline.crops import EditedCrop, edit_crops, way_to_paste
from services.pipeline.edit import check_hidden, edit_image, hides
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.stream import edit_video
from services.serving.request_options import edit_options


class StyledToy(ToyGenerator):
    """The toy through two layers of styles, each half of the code's rows."""

    def styles(self, ws: torch.Tensor) -> dict[str, torch.Tensor]:
        half = NUM_WS // 2
        return {"low": ws[:, :half].flatten(1), "high": ws[:, half:].flatten(1)}

    def synthesize_from_styles(self, styles, noise_mode="const", noise=None, transform=None, resolution=None):
        ws = torch.cat([styles["low"], styles["high"]], 1).view(-1, NUM_WS, W_DIM)
        return self.synthesize(ws, resolution=resolution)


LIPS, HAIR = EditRequest("lips", 2.0), EditRequest("hair", 1.0)
OTHER = EditRequest("random_identity", 1.0)


@pytest.fixture
def models(toy_models: Models) -> Models:
    made = StyledToy()
    lips = ChannelEdit("lips", "steps", (("high", 3),), torch.tensor([0.7]), -2, 2, made.sha256)
    hair = ChannelEdit("hair", "steps", (("low", 0),), torch.tensor([0.7]), -2, 2, made.sha256, whole_head=True)
    basis = 0.5 * torch.eye(W_DIM)[:5]
    other = RandomIdentity("random_identity", "identities", basis, torch.ones(NUM_WS), 1.5, made.sha256)
    edits = joined(toy_models.edits, EditSet([lips, hair]), EditSet([other]))
    return replace(toy_models, generator=made, edits=edits)


class HalfFaces:
    """Judges whose head is everything and whose face is the left half."""

    def regions(self, images: torch.Tensor) -> Regions:
        head = torch.ones(len(images), 1, *images.shape[2:])
        face = head.clone()
        face[..., images.shape[3] // 2 :] = 0
        return Regions(face, head, 1 - head)


def crop(models: Models, request: EditRequest, options: EditOptions) -> EditedCrop:
    ws = 0.1 * torch.randn(1, NUM_WS, W_DIM, generator=torch.Generator().manual_seed(0))
    (made,) = edit_crops(ws, torch.zeros(1, 3, 64, 64), [request], models, options, 64)
    return made


def change(models: Models, request: EditRequest, options: EditOptions) -> np.ndarray:
    made = crop(models, request, options)
    return made.edit - made.reconstruction


def test_a_channel_draws_what_that_channel_of_the_code_draws(models) -> None:
    found = change(replace(models, judges=HalfFaces()), LIPS, EditOptions(paste="difference"))
    wanted = torch.nn.functional.interpolate(
        2 * 0.7 * models.generator.basis[NUM_WS // 2 * W_DIM + 3].view(1, 3, 16, 16), 64, mode="bilinear"
    )
    np.testing.assert_allclose(found, wanted[0].permute(1, 2, 0).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("request_", "head", "paste"),
    [(LIPS, False, "mixed"), (HAIR, True, "mixed"), (OTHER, False, "replace")],
)
def test_hair_reaches_the_head_and_another_person_replaces(models, request_, head, paste) -> None:
    made = crop(replace(models, judges=HalfFaces()), request_, EditOptions())
    assert made.mask[32, 16] == 1 and made.mask[32, 48] == float(head)
    assert way_to_paste([request_], models, EditOptions()) == paste
    assert way_to_paste([replace(request_, strength=0.0)], models, EditOptions()) == "mixed"


def test_the_seed_chooses_the_person_and_nothing_else(models) -> None:
    models = replace(models, judges=HalfFaces())
    one, again, other = (change(models, OTHER, EditOptions(seed=seed)) for seed in (3, 3, 4))
    assert np.array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert np.array_equal(*(change(models, LIPS, EditOptions(seed=seed)) for seed in (3, 4)))


def test_strength_zero_gives_the_input_bit_for_bit(models, picture) -> None:
    image = read_image(picture, 10**8)
    still = [EditRequest(name, 0.0) for name in ("lips", "hair", "random_identity", "age")]
    assert np.array_equal(edit_image(image, still, models, EditOptions(seed=5)).image, image)
    assert not np.array_equal(edit_image(image, [LIPS], models, EditOptions()).image, image)


def test_the_seed_comes_as_text_over_http() -> None:
    assert edit_options({"seed": "7"}).seed == 7
    for text in ("-1", "x", "1.5"):
        with pytest.raises(BadInputError, match="seed"):
            edit_options({"seed": text})


def test_a_person_to_be_hidden_is_not_refined_unless_that_is_asked(models, clip, tmp_path) -> None:
    """What refinement finds of the person would come through."""
    follow = replace(models.config.follow, steps=2, shared_steps=3)
    models = replace(models, config=replace(models.config, follow=follow))

    def looks(request: EditRequest, refine: int | None, **options) -> int:
        made = models.generator
        made.calls = 0
        asked = EditOptions(refine=refine, end=0.1, **options)
        done = edit_video(clip, tmp_path / "out.mp4", [request], models, asked)
        # Nobody is told to come nearer to a person whom the edit is to hide.
        assert bool(done.warnings) != hides([request], models, asked)
        return int(made.calls)

    usual, hidden = looks(LIPS, None), looks(OTHER, None)
    assert hidden < usual - 6
    assert looks(LIPS, 0) < usual - 6 and looks(OTHER, 2) > hidden + 6
    assert looks(replace(OTHER, strength=0.0), None) > hidden + 6
    assert looks(OTHER, None, paste="difference") > hidden + 6, "the face stays below"


def test_a_generator_that_learned_a_person_hides_nobody(models) -> None:
    check_hidden([OTHER, LIPS], models, learned=False)
    check_hidden([LIPS, replace(OTHER, strength=0.0)], models, learned=True)
    with pytest.raises(BadInputError, match="shows more of them: leave out --adapt and --adapted"):
        check_hidden([LIPS, OTHER], models, learned=True)


def test_a_picture_of_a_person_to_be_hidden_is_not_refined_either(models, picture) -> None:
    image, config = read_image(picture, 10**8), models.config
    models = replace(models, config=replace(config, refine=replace(config.refine, steps=40)))
    made = models.generator

    def looks(request: EditRequest) -> int:
        made.calls = 0
        edit_image(image, [request], models, EditOptions())
        return int(made.calls)

    assert looks(OTHER) < 40 < looks(LIPS)


class SeenLater(ToyJudges):
    """Find faces, but none on the first four frames, nor on the ninth and later ones."""

    count = 0

    def find(self, frames: np.ndarray) -> list[list[FaceObservation]]:
        first, self.count = self.count, self.count + len(frames)
        found = super().find(frames)
        return [faces if 4 <= first + index < 8 else [] for index, faces in enumerate(found)]


@pytest.mark.parametrize("request_", [OTHER, LIPS])
def test_a_person_to_be_hidden_is_not_faded_in_and_it_is_said_where_nobody_was_found(
    models, clip, tmp_path, request_: EditRequest
) -> None:
    judges = SeenLater(models.judges.detection, "alex", "cpu")
    judges.finder = models.judges.finder
    faces = replace(models.config.faces, gap=1, hold=2, fade=3)
    models = replace(models, judges=judges, config=replace(models.config, faces=faces))
    done = edit_video(clip, tmp_path / "out.mp4", [request_], models, EditOptions(end=0.5))
    frames = done.faces[0].frames
    assert [frame.state for frame in frames[4:8]] == ["face"] * 4
    faded = [frame.weight for frame in frames[4:8]] == [0.25, 0.5, 0.75, 1.0]
    assert [frame.weight for frame in frames[4:10]] == [1.0] * 6 if request_ is OTHER else faded
    assert [frame.state for frame in frames[8:10]] == ["held"] * 2  # what is held lies where the face was
    told = [line for line in done.warnings if line.startswith("no face was found to hide")]
    wanted = [f"on frames {first}-{last}: look at them, or leave them out" for first, last in ((0, 3), (8, 14))]
    assert told == ([f"no face was found to hide {line}" for line in wanted] if request_ is OTHER else [])


def test_of_who_is_hidden_no_picture_is_told_to_be_nearer(models, picture) -> None:
    image, config = read_image(picture, 10**8), models.config
    strict = replace(config, warnings=replace(config.warnings, identity_distance=-1.0))
    models = replace(models, config=strict)
    assert edit_image(image, [LIPS], models, EditOptions()).warnings
    assert not edit_image(image, [OTHER], models, EditOptions()).warnings
