import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from umasks import mode, umask

import modules.model_folder
from datamodules.types import BadInputError
from modules.model_folder import load_model, require_generator, require_replaceable, save_model, weights_sha256

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(4)}


def test_what_is_saved_is_what_another_reader_finds(tmp_path) -> None:
    folder = save_model(tmp_path / "m", {"kind": "test", "n": 1}, TENSORS, "# Card\n")
    read = load_file(folder / "weights.safetensors")
    np.testing.assert_array_equal(read["b"], TENSORS["b"].numpy())
    model = load_model(folder, "test")
    assert model.config == {"kind": "test", "n": 1}
    assert model.card == "# Card\n"


def test_saving_replaces_the_old_folder_whole(tmp_path) -> None:
    save_model(tmp_path / "m", {"kind": "test"}, TENSORS, "old")
    save_model(tmp_path / "m", {"kind": "test"}, {"c": torch.zeros(1)}, "new")
    assert set(load_model(tmp_path / "m").tensors) == {"c"}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(("mask", "wanted"), [(0o077, 0o700), (0o022, 0o755), (0o002, 0o775)])
def test_who_may_read_a_model_is_for_the_umask_to_say(tmp_path, mask: int, wanted: int) -> None:
    for _ in range(2):  # a new folder, and one that replaces another
        with umask(mask):
            folder = save_model(tmp_path / "m", {"kind": "test"}, TENSORS, "card")
        assert mode(folder) == wanted
        assert {mode(path) for path in folder.iterdir()} == {wanted & 0o666}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_failed_save_leaves_the_old_folder(tmp_path) -> None:
    save_model(tmp_path / "m", {"kind": "test"}, TENSORS, "old")
    with pytest.raises(TypeError):
        save_model(tmp_path / "m", {"kind": object()}, TENSORS, "new")
    assert load_model(tmp_path / "m").card == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_place_where_something_else_lies_is_refused(tmp_path) -> None:
    for free in (tmp_path / "new", tmp_path / "model", tmp_path / "empty"):
        if free.name == "model":
            save_model(free, {"kind": "test"}, TENSORS, "card")
        if free.name == "empty":
            free.mkdir()
        require_replaceable(free)
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(BadInputError, match="no model folder"):
            require_replaceable(taken)


@pytest.mark.parametrize("more", ["letters.txt", "photos", "model.safetensors", "card.md/letters.txt"])
def test_a_folder_that_holds_more_than_a_model_is_refused(tmp_path, more) -> None:
    folder = save_model(tmp_path / "m", {"kind": "test"}, TENSORS, "card")
    (folder / "metrics.json").write_text("{}")
    require_replaceable(folder, "test")
    if more == "photos":
        (folder / more).mkdir()
    else:
        if more.startswith("card"):
            (folder / "card.md").unlink()
        (folder / more).parent.mkdir(exist_ok=True)
        (folder / more).write_text("mine")
    for kind in ("test", None):
        with pytest.raises(
            BadInputError, match=f"no model folder, as it holds {more.split('/')[0]}; name"
        ) as caught:
            require_replaceable(folder, kind)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", ['{"name": "my-app"}', "[]", '{"kind": 7}', "{", "", None])
def test_a_config_of_something_else_is_no_model(tmp_path, config) -> None:
    if config is None:
        (tmp_path / "card.md").write_text("a birthday card")
    else:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(BadInputError, match="no model folder"):
        require_replaceable(tmp_path)


def test_a_model_of_another_kind_is_refused(tmp_path) -> None:
    folder = save_model(tmp_path / "frame-encoder", {"kind": "frame-encoder"}, TENSORS, "card")
    require_replaceable(folder, "frame-encoder")
    require_replaceable(folder)
    with pytest.raises(BadInputError, match=r"of kind frame-encoder, not adaptation; name another folder"):
        require_replaceable(folder, "adaptation")


def test_the_hash_depends_on_names_shapes_and_values_only() -> None:
    digest = weights_sha256(TENSORS)
    assert digest == weights_sha256(dict(reversed(TENSORS.items())))
    assert digest != weights_sha256({**TENSORS, "a": torch.ones(2, 2)})
    assert digest != weights_sha256({"b": TENSORS["b"], "c": TENSORS["a"]})
    assert digest != weights_sha256({**TENSORS, "a": torch.ones(4) * 1.5})


@pytest.mark.parametrize("damage", ["missing", "truncated", "not json"])
def test_damaged_folders_are_refused_in_one_line(tmp_path, damage) -> None:
    folder = save_model(tmp_path / "m", {"kind": "test"}, TENSORS, "card")
    if damage == "missing":
        (folder / "card.md").unlink()
    elif damage == "truncated":
        weights = folder / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:40])
    else:
        (folder / "config.json").write_text("{")
    with pytest.raises(BadInputError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_too_little_memory_says_nothing_of_the_folder(tmp_path, monkeypatch) -> None:
    folder = save_model(tmp_path / "model", {"kind": "toy"}, {"w": torch.ones(1)}, "card")

    def full(path):
        raise MemoryError

    monkeypatch.setattr(modules.model_folder, "load_file", full)
    with pytest.raises(MemoryError):
        load_model(folder)


def test_kind_and_generator_are_checked(tmp_path) -> None:
    folder = save_model(tmp_path / "m", {"kind": "test", "generator_sha256": "x"}, TENSORS, "card")
    with pytest.raises(BadInputError, match=r"'test'.*'other'"):
        load_model(folder, "other")
    require_generator(load_model(folder).config, "x", "m")
    with pytest.raises(BadInputError, match=r"x.*y"):
        require_generator(load_model(folder).config, "y", "m")


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_and_the_old_folder_stays(tmp_path, lost: float) -> None:
    save_model(tmp_path / "m", {"kind": "test"}, TENSORS | {"count": torch.arange(3)}, "old")
    bad = TENSORS | {"a": torch.tensor([1.0, lost], dtype=torch.bfloat16)}
    with pytest.raises(BadInputError, match="a of the model holds NaN") as error:
        save_model(tmp_path / "m", {"kind": "test"}, bad, "new")
    assert "\n" not in str(error.value)
    assert load_model(tmp_path / "m").card == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
