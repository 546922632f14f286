"""Published formats are read to the same network; pickled code never runs; damage is one line."""

from __future__ import annotations

import collections
import io
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance_cases import FOLDER, case, tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import STYLEGAN2, encoder_checkpoint, rosinality_state, save_whole, small_network

from datamodules.types import BadInputError
from modules.generators.checkpoints import read_checkpoint
from modules.generators.restricted_pickle import PickledModule
from modules.generators.rosinality import from_rosinality
from modules.generators.stylegan2 import StyleGAN2
from modules.generators.torch_archive import MAX_BYTES, read_archive


class _Call:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("name", [STYLEGAN2, "stylegan3-t-64-small", "stylegan3-r-64-small"])
def test_nvlabs_pickles_hold_the_cases_tensors(name: str) -> None:
    found = read_checkpoint(FOLDER / f"{name}.pkl")
    assert (found.format, found.architecture) == ("NVlabs .pkl", name.split("-")[0])
    opened = case(name)
    # The layers were made with NVlabs/stylegan3's default, which the keywords do not say.
    assert found.config == {**opened.json["init"], "conv_clamp": 256}
    assert set(found.tensors) == set(opened.json["tensors"])
    for key, value in tensors(opened).items():
        torch.testing.assert_close(found.tensors[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_archives_read_as_torch_reads_them(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "layer": torch.nn.Linear(3, 4).state_dict(),
        "half": torch.randn(3).half(),
        "bfloat": torch.randn(5).bfloat16(),
        "flags": torch.tensor([True, False]),
        "views": [base[1:3, ::2], base.t(), base[0]],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.empty(0, 7),
        "ordered": collections.OrderedDict(a=1, b=(2, None, 2.5, "c", 10**30, b"x", {3})),
        "size": torch.Size([1, 2]),
    }
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    wanted = torch.load(tmp_path / "x.pt", weights_only=True)
    got = read_archive(tmp_path / "x.pt")
    assert list(got) == list(wanted)
    for key in ("half", "bfloat", "flags", "parameter", "empty"):
        torch.testing.assert_close(got[key], wanted[key].detach())
    torch.testing.assert_close(got["views"], wanted["views"])
    torch.testing.assert_close(got["layer"], dict(wanted["layer"]))
    assert got["ordered"] == dict(wanted["ordered"])
    assert got["size"] == (1, 2)


def test_numpy_values_are_rebuilt(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    (tmp_path / "x.pkl").write_bytes(
        pickle.dumps({"a": array, "f": np.asfortranarray(array), "s": np.float32(3.5)})
    )
    got = read_archive(tmp_path / "x.pkl")
    np.testing.assert_array_equal(got["a"].value, array)
    np.testing.assert_array_equal(got["f"].value, array)
    assert got["s"] == 3.5


def _formats(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    network = small_network()
    state = rosinality_state(network.tensors())
    mean = network.tensors()["mapping.w_avg"]
    contents: dict[str, tuple[Any, str]] = {
        "rosinality": ({"g_ema": state, "latent_avg": mean}, "rosinality .pt"),
        "training": (
            {"g_ema": state, "g": state, "d": {"x": torch.ones(2)}, "latent_avg": mean, "ada_aug_p": 0.0},
            "rosinality .pt",
        ),
        "e4e": (encoder_checkpoint(state, mean.repeat(10, 1)), "e4e, pSp or ReStyle .pt"),
        "psp": (encoder_checkpoint(state, mean[None]), "e4e, pSp or ReStyle .pt"),
        "stit": ({"generator": state, "pivots": torch.zeros(2, 10, 32), "latent_avg": mean}, "STIT .pt"),
    }
    made = {}
    for name, (content, format_) in contents.items():
        for zipped in (True, False):
            path = tmp_path / f"{name}-{zipped}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            made[path.stem] = path, format_
    for zipped in (True, False):
        whole = save_whole(network, tmp_path / f"pti-{zipped}.pt", lambda made: made, zipped)
        held = save_whole(network, tmp_path / f"held-{zipped}.pt", lambda made: {"generator": made}, zipped)
        made |= {whole.stem: (whole, "a network pickled whole (PTI)"), held.stem: (held, "STIT .pt")}
    return made


def test_every_format_gives_the_same_tensors(tmp_path: Path) -> None:
    wanted = {key: value for key, value in small_network().tensors().items() if not key.endswith("_filter")}
    made = _formats(tmp_path)
    assert len(made) == 14
    for path, format_ in made.values():
        found = read_checkpoint(path)
        assert (found.format, found.architecture) == (format_, "stylegan2")
        assert found.config["img_resolution"] == 64
        kept = {key: value for key, value in found.tensors.items() if not key.endswith("_filter")}
        torch.testing.assert_close(kept, wanted, rtol=0, atol=0)


def _layers(module: PickledModule) -> Iterator[PickledModule]:
    for child in dict(module.state["_modules"]).values():
        if "conv_clamp" in child.state:
            yield child
        yield from _layers(child)


def _config_with(clamp: Any, keywords: dict[str, Any], path: Path) -> dict[str, Any]:
    """The config read of a network whose layers are clamped so, made with further keywords."""
    network = small_network()
    network.state["_init_kwargs"] |= keywords
    for layer in _layers(network):
        layer.state["conv_clamp"] = clamp
    return read_checkpoint(save_whole(network, path, lambda made: made, True)).config


def test_a_default_of_the_clamp_is_the_one_that_the_layers_had(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    assert len(list(_layers(small_network()))) == 14
    assert _config_with(None, {}, path)["conv_clamp"] is None
    assert _config_with(256, {}, path)["conv_clamp"] == 256
    assert _config_with(256, {"conv_clamp": None}, path)["conv_clamp"] is None
    nested = {"synthesis_kwargs": {"conv_clamp": 8, "num_fp16_res": 4}}
    assert _config_with(256, nested, path)["synthesis_kwargs"]["conv_clamp"] == 8
    assert "conv_clamp" not in _config_with(256, nested, path)
    config, tensors = from_rosinality(rosinality_state(small_network().tensors()))
    assert StyleGAN2.from_state(tensors, config).settings.conv_clamp is None


def test_layers_without_one_bound_are_refused(tmp_path: Path) -> None:
    path, network = tmp_path / "x.pt", small_network()
    next(_layers(network)).state["conv_clamp"] = 128
    save_whole(network, path, lambda made: made, True)
    with pytest.raises(BadInputError, match="different values"):
        read_checkpoint(path)
    for clamp in ("256", 0, -1, float("nan"), (256, 256)):
        with pytest.raises(BadInputError, match="no bound"):
            _config_with(clamp, {}, path)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"img_channels": (((3,),),)}, "img_channels that is no plain setting"),
        ({"surprise": {"a": 1}}, "surprise that is no plain setting"),
        ({"synthesis_kwargs": 5}, "damaged"),
        ({"a\nb": 1}, "damaged"),
        ({3: 1}, "damaged"),
    ],
)
def test_settings_that_are_none_get_one_line(keywords: dict[Any, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        _config_with(256, keywords, tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("group", ["_parameters", "_buffers"])
def test_parts_that_are_none_get_one_line(group: str, tmp_path: Path) -> None:
    network = small_network()
    network.state[group] = 5
    save_whole(network, tmp_path / "x.pt", lambda made: made, True)
    with pytest.raises(BadInputError, match=f"damaged.*{group} are a int"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_network_that_holds_itself_is_refused(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    meta = b"}" + text("class_name") + text("Generator") + b"s" + text("state") + b"}q\x00s"
    module = b"\x80\x04ctorch_utils.persistence\n_reconstruct_persistent_obj\n" + meta + b"\x85Rq\x01"
    itself = b"h\x00" + text("_modules") + b"}" + text("again") + b"h\x01ss0."
    (tmp_path / "x.pkl").write_bytes(module + itself)
    with pytest.raises(BadInputError, match="hold one another without end"):
        read_checkpoint(tmp_path / "x.pkl")


def test_dicts_that_share_their_parts_have_no_names_without_end(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"tensor": torch.ones(1)}
    for _ in range(20):
        shared = {"a": shared, "b": shared}
    state = rosinality_state(small_network().tensors())
    torch.save({"g_ema": state, "other": shared}, tmp_path / "x.pt")
    with pytest.raises(BadInputError, match="hold one another without end"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_foreign_resampling_filter_is_refused(tmp_path: Path) -> None:
    state = rosinality_state(small_network().tensors())
    state["convs.0.conv.blur.kernel"] = torch.eye(4)
    torch.save({"g_ema": state}, tmp_path / "x.pt")
    with pytest.raises(BadInputError, match=r"blur\.kernel"):
        read_checkpoint(tmp_path / "x.pt")


def _malicious(marker: Path) -> dict[str, Any]:
    command = f"touch {marker}"
    return {
        "posix.system": _Call(os.system, command),
        "subprocess.Popen": _Call(subprocess.Popen, ["touch", str(marker)]),
        "builtins.eval": _Call(eval, f"__import__('os').system({command!r})"),
        "builtins.getattr": _Call(getattr, "x", "upper"),
        "torch.serialization.load": _Call(torch.load, str(marker)),
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_malicious_pickle_executes_nothing(protocol: int, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pkl"
    for name, evil in _malicious(marker).items():
        for content in (evil, {"G_ema": evil}, [{"a": (evil,)}]):
            path.write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(BadInputError) as caught:
                read_archive(path)
            # Protocols 0 and 1 are no checkpoint at all; protocol 2 has Python 2's names for some modules.
            assert protocol < 3 or name in str(caught.value)
            assert "\n" not in str(caught.value)
            assert not marker.exists()
    # The files are what they claim to be: pickle itself does make the call.
    pickle.loads(pickle.dumps(_Call(os.system, f"touch {marker}"), protocol))
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_torch_archive_executes_nothing(zipped: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    for evil in _malicious(marker).values():
        torch.save(
            {"g_ema": {"input.input": torch.ones(1)}, "x": evil}, path, _use_new_zipfile_serialization=zipped
        )
        with pytest.raises(BadInputError, match="refused"):
            read_archive(path)
        assert not marker.exists()


def test_nested_bytes_execute_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pkl"
    inner = pickle.dumps(_Call(os.system, f"touch {marker}"))
    path.write_bytes(pickle.dumps(_Call(torch.storage._load_from_bytes, inner)))
    with pytest.raises(BadInputError, match="system"):
        read_archive(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"(S'touch {}'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch {}'\no.",  # OBJ
        b"cos\nsystem\n(S'touch {}'\ntR.",  # GLOBAL and REDUCE
        b"ccollections\nOrderedDict\n(S'__class__'\nS'touch {}'\ndb.",  # BUILD on a class
        b"\x82\x01.",  # EXT1
        b"Ptouch\n.",  # PERSID
    ],
)
def test_programs_written_by_hand_execute_nothing(program: bytes, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pkl"
    path.write_bytes(b"\x80\x02" + program.replace(b"{}", str(marker).encode()))
    with pytest.raises(BadInputError):
        read_archive(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("empty", b"", 415),
        ("text", b"hello, this is not a checkpoint\n", 415),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 415),
        ("page", b"<!doctype html><html>", 415),
        ("png", b"\x89PNG\r\n\x1a\n" + bytes(64), 415),
        ("cut zip", b"PK\x03\x04" + bytes(100), 422),
        ("number", pickle.dumps(3), 415),
        ("dict", pickle.dumps({"epoch": 3}), 422),
        ("memo", b"\x80\x04r\xff\xff\xff\x7f.", 422),
        ("length", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fabc", 422),
    ],
)
def test_other_files_get_one_line(name: str, content: bytes, status: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        read_checkpoint(path)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_a_huge_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "huge.pt"
    with path.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(BadInputError) as caught:
        read_checkpoint(path)
    assert caught.value.status == 413


def test_a_plain_zip_and_a_compressed_archive_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BadInputError, match=r"torch\.save"):
        read_archive(tmp_path / "plain.zip")
    with zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps([0] * 10_000))
    with pytest.raises(BadInputError, match="compressed"):
        read_archive(tmp_path / "small.pt")


def _torch_file(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    content = {"g_ema": torch.nn.Linear(5, 3).state_dict(), "x": [1, "a", 2.5, (None, True)]}
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


_FILES = {
    "zip": _torch_file(True),
    "legacy": _torch_file(False),
    "pkl": (FOLDER / "stylegan3-r-64-small.pkl").read_bytes(),
}


@pytest.mark.parametrize("kind", sorted(_FILES))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_in_one_line(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(_FILES[kind])
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except BadInputError as error:
        assert "\n" not in str(error)
