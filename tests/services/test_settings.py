from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datamodules.people import PeopleConfig
from datamodules.types import BadInputError
from services.direction_settings import DirectionSettings
from services.settings import PARAMS, ROOT, build, computes_bfloat16, host_names, load_params
from services.training.trainer import FrameEncoderSettings


@dataclass(frozen=True)
class Inner:
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Outer:
    steps: int
    inner: Inner
    extra: Inner | None = None


def test_shipped_file_builds() -> None:
    params = load_params(environment={})
    assert params.data.folder() is None or params.data.folder() == ROOT / params.data.root
    assert params.runtime.host == "127.0.0.1"
    assert params.runtime.state == ROOT / "var"
    assert params.runtime.tracking() == f"sqlite:///{ROOT / 'var' / 'mlflow.db'}"
    assert params.runtime.torch_device() in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("device", "gpu", "cpu", "expected"),
    [
        ("cpu", True, False, False), ("cpu", False, True, True), ("cuda", True, False, True),
        ("cuda", False, True, False), ("auto", True, False, True), ("auto", False, True, False),
        ("auto", None, True, True), ("auto", None, False, False),
    ],
)  # fmt: skip
def test_bfloat16_is_asked_of_the_device_that_computes_and_emulation_does_not_count(
    monkeypatch: pytest.MonkeyPatch, device: str, gpu: bool | None, cpu: bool, expected: bool
) -> None:
    """``gpu`` is whether the GPU multiplies it; None is no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: bool(including_emulation or gpu)
    )
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": cpu})
    assert computes_bfloat16(device) is expected
    params = load_params(environment={"STYLEREEL_DEVICE": device, "STYLEREEL_PRECISION": "auto"})
    assert params.runtime.bfloat16() is expected
    trainer = params.section("frame_encoder", FrameEncoderSettings).trainer
    assert trainer.lightning_precision(device) == ("bf16-mixed" if expected else "32-true")
    assert replace(trainer, precision="bf16-mixed").lightning_precision(device) == "bf16-mixed"


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    runtime = load_params(
        environment={
            "STYLEREEL_DEVICE": "cpu",
            "STYLEREEL_PORT": "0",
            "STYLEREEL_STATE": str(tmp_path),
            "STYLEREEL_KEEP_JOBS_HOURS": "0.5",
            "STYLEREEL_TRACKING_URI": "http://127.0.0.1:5000",
        }
    ).runtime
    assert (runtime.device, runtime.port, runtime.state) == ("cpu", 0, tmp_path)
    assert (runtime.keep_jobs_hours, runtime.tracking()) == (0.5, "http://127.0.0.1:5000")


def test_environment_of_the_wrong_kind_names_the_key() -> None:
    with pytest.raises(BadInputError, match=r"runtime\.port"):
        _ = load_params(environment={"STYLEREEL_PORT": "many"}).runtime
    with pytest.raises(BadInputError, match=r"runtime\.log_level: .*'info'"):
        _ = load_params(environment={"STYLEREEL_LOG_LEVEL": "loud"}).runtime


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in (
            "max_bytes", "max_image_bytes", "max_pixels", "max_jobs", "slowest_upload", "stop_seconds",
            "max_seconds", "max_rate", "request_seconds", "poll_seconds", "upload_grace",
            "keep_latents_hours", "keep_jobs_hours",
        ) for value in ("0", "-1", "nan", "inf")),
        ("threads", "-1"), ("port", "-1"), ("port", "65536"),
        *(("allowed_hosts", names) for names in ("https://a.example", "a.example, b.example:80", "a.*")),
    ],
)  # fmt: skip
def test_numbers_that_nothing_can_be_done_with_are_refused_in_one_line(name: str, value: str) -> None:
    with pytest.raises(BadInputError) as refused:
        _ = load_params(environment={f"STYLEREEL_{name.upper()}": value}).runtime
    assert str(refused.value).startswith(f"runtime.{name}: ") and "\n" not in str(refused.value)


def test_hosts_are_named_between_commas() -> None:
    given = "A.example, *.b.example,[::1], localhost"
    runtime = load_params(environment={"STYLEREEL_ALLOWED_HOSTS": given}).runtime
    assert host_names(runtime.allowed_hosts) == ("a.example", "*.b.example", "[::1]", "localhost")
    assert host_names(load_params(environment={}).runtime.allowed_hosts) == ()


def test_nested_sections_and_yaml_numbers() -> None:
    made = build(Outer, {"steps": 3, "inner": {"rates": ["1e-4", 2]}}, "toy")
    assert made == Outer(3, Inner((1e-4, 2.0)))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"steps": 3, "inner": {"rates": []}, "stpes": 1}, "toy.stpes is not known"),
        ({"steps": 3, "inner": {"rates": [], "rate": 1}}, "toy.inner.rate is not known"),
        ({"steps": 3, "inner": {"rates": []}, "extra": {"x": 1}}, "toy.extra.x is not known"),
        ({"inner": {"rates": []}}, "toy.steps is missing"),
        ({"steps": "x", "inner": {"rates": []}}, "toy.steps: "),
        ({"steps": 3, "inner": 4}, "toy.inner"),
    ],
)
def test_wrong_keys_are_named(given_: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        build(Outer, given_, "toy")


@pytest.mark.parametrize(
    ("override", "section", "kind", "message"),
    [
        (
            "directions.edits.yaw.measured=[-15,5]", "directions", DirectionSettings,
            "directions.edits.yaw: a strength of 10 or more must be measured",
        ),
        ("people.val_share=2", "people", PeopleConfig, "people: val_share and test_share are shares that add up"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_together_are_said_in_their_own_words(
    override: str, section: str, kind: type[Any], message: str
) -> None:
    with pytest.raises(BadInputError) as refused:
        load_params(overrides=[override]).section(section, kind)
    assert str(refused.value).startswith(message) and len(str(refused.value)) < 120


@given(st.integers(0, 10**6))
def test_override_is_what_is_read_back(value: int) -> None:
    assert load_params(overrides=[f"runtime.threads={value}"], environment={}).runtime.threads == value


@pytest.mark.parametrize(
    "override", ["runtime.thread=1", "nothing.x=1", "runtime", "runtime=1", "runtime.port=[1"]
)
def test_bad_overrides(override: str) -> None:
    with pytest.raises(BadInputError):
        load_params(overrides=[override])


def test_override_leaves_the_file_alone() -> None:
    before = PARAMS.read_bytes()
    load_params(overrides=["runtime.port=1"])
    assert PARAMS.read_bytes() == before


@pytest.mark.parametrize("text", ["a: [", "- 1", "a: 1", "\x00"])
def test_files_that_are_not_params(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError):
        load_params(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot read"):
        load_params(tmp_path / "none.yaml")


def test_shipped_file_has_no_repeated_keys() -> None:
    sections = [line.split(":")[0] for line in PARAMS.read_text().splitlines() if line[:1].isalpha()]
    assert sorted(sections) == sorted(yaml.safe_load(PARAMS.read_text()))


def test_settings_do_not_load_torch() -> None:
    code = "import sys, services.settings as s; s.load_params().runtime; sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 0
