"""What a job's report gives for making its clip again, and what it keeps to itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from api_toys import load_toys

from services.serving.reproduction import reproduction
from services.settings import load_params
from services.version import version

GIVEN = {"name": "input", "sha256": "a" * 64, "bytes": 3}


def test_params_are_those_of_the_sidecar(tmp_path: Path) -> None:
    models = load_toys(load_params(environment={"STYLEREEL_DEVICE": "cpu"}))
    assert reproduction(GIVEN, models, {"flow": {"steps": 1}}) == {
        "stylereel": version(),
        "input": {"sha256": "a" * 64, "bytes": 3},
        "hashes": models.versions,
        "params": {**models.numbers(), "flow": {"steps": 1}},
    }


def test_no_folder_of_the_server_and_no_name_of_a_learned_clip_is_told() -> None:
    weights = "pipeline.keep_lips.fan_weights=/srv/anna/fan.pth.tar"
    params = load_params(overrides=[weights], environment={"STYLEREEL_DEVICE": "cpu"})
    source = {"name": "anna at home.mp4", "sha256": "d" * 64}
    learned = {"adaptation": {"rank": 4}, "learned_from": {"source": source, "start_from": None}}
    told = reproduction(GIVEN, replace(load_toys(params), learned_by=learned), {})
    assert "/home" not in json.dumps(told) and "anna" not in json.dumps(told)
    assert told["params"]["pipeline"]["keep_lips"]["fan_weights"] == "fan.pth.tar"
    assert told["params"]["learned_from"] == {"source": {"sha256": "d" * 64}, "start_from": None}
    assert told["params"]["adaptation"] == {"rank": 4}
    assert source["name"], "what the models say of themselves stays"
