"""``dvc repro`` in a copy of this checkout: every stage on real clips with small numbers, and nothing twice.

Of the committed test list one clip is tested on here; that several persons are averaged and told apart is tested
with the evaluations themselves.
"""

from __future__ import annotations

import json

import pytest
import yaml
from checkout import Checkout

from modules.assets import asset_path
from services.registry.connection import Connection, RegistryConfig
from services.settings import ROOT, load_params

STAGES = tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout(tmp_path_factory.mktemp("checkout"))
    made.test_on(asset_path("clips", "WolfgangLanger_Pexels.mp4"))
    return made


@pytest.mark.timeout(1500)
def test_every_stage_runs_once_and_what_did_not_change_not_again(checkout: Checkout) -> None:
    first = checkout.repro()
    for stage in STAGES:
        assert f"Running stage '{stage}'" in first
    lock = yaml.safe_load((checkout.folder / "dvc.lock").read_text())["stages"]
    assert set(lock) == set(STAGES)
    again = checkout.repro()
    assert "Running stage" not in again
    params = load_params(
        checkout.folder / "params.yaml", environment={"STYLEREEL_STATE": str(checkout.folder / "var")}
    )
    registry = Connection(params.runtime.tracking(), params.section("registry", RegistryConfig))
    with registry.reach() as client:
        runs = client.search_runs([registry.experiment_id()])
    assert sorted(run.info.run_name for run in runs) == sorted(STAGES)
    assert {run.info.status for run in runs} == {"FINISHED"}
    rows = json.loads((checkout.folder / "metrics" / "ablation.json").read_text())["rows"]
    assert list(rows) == ["input", "mean_face", "start", "l2", "and_lf"]
    curves = next(run.data.metrics for run in runs if run.info.run_name == "ablation")
    assert {"l2/val/psnr", "and_lf/val/psnr", "rows.and_lf.psnr"} <= curves.keys()
    for name in ("frame_encoder", "directions", "stylespace", "pose_editor", "video_encoder"):
        found = json.loads((checkout.folder / "metrics" / f"{name}.evaluation.json").read_text())
        assert found["clips"] > 0 and found["metrics"]
        # Edits of one step, set to their unit on two codes, may leave no face; faces that were lost do not count.
        assert found["frames"] > 0 or name in ("directions", "pose_editor")
