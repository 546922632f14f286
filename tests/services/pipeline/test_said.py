"""What is advised is what can be done."""

from dataclasses import replace

import numpy as np
import pytest

from services.pipeline.options import EditOptions, WarningsConfig
from services.pipeline.said import advice_for, changed_persons, not_hidden, poor_reconstruction

WARN = WarningsConfig(identity_distance=0.6, landmark_error=5.0, try_refine=50)


@pytest.mark.parametrize(
    ("changes", "options", "of_clip", "of_image"),
    [
        ({}, EditOptions(), "try --adapt, or --refine 50", "try --refine 50"),
        ({}, EditOptions(refine=49), "try --adapt, or --refine 50", "try --refine 50"),
        ({}, EditOptions(refine=50), "try --adapt", "choose another picture"),
        ({}, EditOptions(face="all"), "try --refine 50", "try --refine 50"),
        ({}, EditOptions(face="all", refine=300), "choose another section", "choose another picture"),
        ({}, EditOptions(preview=True), "a preview is not refined, the finished clip is", "try --refine 50"),
        ({"adapted": {"anna": "1"}}, EditOptions(), "try --refine 50", None),
        ({"adapted": {"anna": "1"}}, EditOptions(refine=60), "choose another section", None),
        ({"task": "colourise"}, EditOptions(), *["what is added may be another person's"] * 2),
    ],
)
def test_poor_reconstructions(toy_models, changes, options, of_clip, of_image) -> None:
    assert toy_models.config.warnings.try_refine == 50
    models = replace(toy_models, **changes)
    assert advice_for(models, options, clip=True) == of_clip
    assert "--adapt" not in advice_for(models, options, clip=True, inverts=True)
    assert of_image is None or advice_for(models, options, clip=False) == of_image


def test_persons_who_take_turns(toy_models) -> None:
    said = "another person takes the face's place at frame 3, 9"
    assert changed_persons([3, 9], toy_models, EditOptions()) == (f"{said}: --face all edits everybody",)
    assert changed_persons([3, 9], toy_models, EditOptions(face="all")) == ()
    assert changed_persons([], toy_models, EditOptions()) == ()
    (line,) = changed_persons([3, 9], replace(toy_models, adapted={"anna": "1"}), EditOptions())
    assert line == f"{said}: choose a section that shows one person"
    assert changed_persons([3, 9], toy_models, EditOptions(), inverts=True) == (line,)
    assert changed_persons([3, 9], toy_models, EditOptions(paste="replace", stitch=True)) == (line,)


def test_frames_that_hide_nobody() -> None:
    found = np.array([0, 0, 1, 1, 0, 1, 0], bool)
    assert [line.split(":")[0] for line in not_hidden(found, range(10, 17))] == [
        "no face was found to hide on frames 10-11",
        "no face was found to hide on frame 14",
        "no face was found to hide on frame 16",
    ]
    assert not_hidden(np.ones(3, bool), range(3)) == ()


def test_warnings_name_the_frames() -> None:
    distance = [0.3, 0.7, np.nan, 0.8, 0.3, 0.61]
    lines = poor_reconstruction(distance, [1.0, np.nan, 9.0, 1.0, 1.0, 1.0], WARN, "try it", range(40, 46))
    assert lines == (
        "identity distance 0.75 on frames 41-43: try it",
        "identity distance 0.61 on frame 45: try it",
        "landmark error 9.0 % on frame 42: try it",
    )
    assert poor_reconstruction([0.71], [2.0], WARN, "try it") == ("identity distance 0.71: try it",)
    assert poor_reconstruction([0.3], [2.0], WARN, "try it") == ()
