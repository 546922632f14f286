"""Fields of an interlaced clip: what makes other lines or other frames does not claim them."""

from dataclasses import replace

from datamodules.video import probe
from services.pipeline.canvas import canvas_info
from services.pipeline.interpolate import finer
from services.pipeline.options import PipelineConfig
from services.pipeline.stream import lost
from services.settings import load_params


def test_fields_outlive_an_edit_but_neither_enlarging_nor_frames_between(clip) -> None:
    info = replace(probe(clip), field_order=2)
    assert canvas_info(None, info).interlaced and canvas_info("colourise", info).interlaced
    assert not canvas_info("enlarge", info).interlaced
    assert not finer(info, 2).interlaced


def test_fields_that_go_are_told(clip) -> None:
    video = load_params(environment={}).section("pipeline", PipelineConfig).video
    whole = replace(probe(clip), height=96)
    woven = replace(whole, field_order=2)
    assert lost(whole, whole, video) == lost(woven, woven, video) == ()
    for written in (canvas_info("enlarge", woven), finer(woven, 2)):
        [line] = lost(woven, written, video)
        assert "interlaced" in line and "deinterlace it first" in line
    assert len(lost(woven, woven, replace(video, codec="hevc"))) == 1
    assert len(lost(replace(woven, bit_depth=10), finer(woven, 2), video)) == 2
