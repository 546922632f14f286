from dataclasses import replace
from pathlib import Path

import pytest

from modules.model_folder import load_model, save_model
from services.demo.lifecycle import find_evaluation, promote_shipped
from services.registry.gate import Gates
from services.registry.store import CHAMPION

NAME = "stylereel-frame-encoder"


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    folder = tmp_path / "metrics"
    folder.mkdir()
    return folder


@pytest.fixture
def gates(gate) -> Gates:
    return Gates({NAME: gate})


def test_a_shipped_model_with_a_good_evaluation_becomes_champion(
    registry, gates, toy_model, evaluation, metrics
) -> None:
    folder = toy_model(1)
    (metrics / "toy.evaluation.json").write_text(evaluation(folder, psnr=12).to_json())
    standing = promote_shipped(registry, gates, NAME, folder, metrics)
    identity = load_model(folder).identity
    assert standing.promoted and standing.champion == "1" and standing.why.startswith("passed")
    assert standing.shipped == standing.champion_identity == identity
    assert load_model(Path(standing.folder)).identity == identity
    assert Path(standing.folder) != folder  # what goes on comes out of the registry
    again = promote_shipped(registry, gates, NAME, folder, metrics)
    assert again.promoted and again.why == "version 1 is champion already"
    assert len(registry.history(NAME)) == 1


@pytest.mark.parametrize("psnr", [5.0, float("nan"), None])
def test_a_refusal_is_told_and_the_shipped_folder_goes_on(
    registry, gates, toy_model, evaluation, metrics, psnr
) -> None:
    folder = toy_model(1)
    if psnr is not None:
        (folder / "toy.evaluation.json").write_text(evaluation(folder, psnr).to_json())
    standing = promote_shipped(registry, gates, NAME, folder, metrics)
    assert not standing.promoted and standing.champion is None and standing.why.startswith("refused")
    assert standing.folder == str(folder)


def test_a_worse_model_leaves_the_champion_where_it_is(registry, gates, toy_model, evaluation, metrics) -> None:
    good, bad = toy_model(1), toy_model(2)
    for folder, psnr in ((good, 14), (bad, 12)):
        (metrics / f"{psnr}.evaluation.json").write_text(evaluation(folder, psnr).to_json())
    promote_shipped(registry, gates, NAME, good, metrics)
    standing = promote_shipped(registry, gates, NAME, bad, metrics)
    assert not standing.promoted and standing.champion == "1" and "champion's" in standing.why
    assert standing.champion_identity == registry.resolve(NAME, CHAMPION).identity != standing.shipped


def test_an_evaluation_is_taken_for_its_own_weights_and_config_only(toy_model, evaluation, metrics) -> None:
    mine, other = toy_model(1), toy_model(2)
    model = load_model(mine)
    (metrics / "a.evaluation.json").write_text(evaluation(other, 20).to_json())
    half = replace(evaluation(other, 20), model_sha256=model.weights_sha256, config_sha256="another's")
    (metrics / "b.evaluation.json").write_text(half.to_json())
    assert find_evaluation([mine, metrics], model) is None
    right = replace(half, config_sha256=model.config_sha256)
    (metrics / "c.evaluation.json").write_text(right.to_json())
    assert find_evaluation([mine, metrics], model) == right
    assert find_evaluation([metrics / "missing"], model) is None


def test_the_same_weights_with_other_units_are_another_model(
    registry, gates, toy_model, evaluation, metrics
) -> None:
    folder = toy_model(1)
    (metrics / "toy.evaluation.json").write_text(evaluation(folder, psnr=12).to_json())
    promote_shipped(registry, gates, NAME, folder, metrics)
    model = load_model(folder)
    save_model(folder, {**model.config, "unit": 2.0}, model.tensors, model.card)
    standing = promote_shipped(registry, gates, NAME, folder, metrics)
    assert not standing.promoted and standing.champion == "1" and "no evaluation" in standing.why
