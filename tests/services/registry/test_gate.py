import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.types import BadInputError
from services.registry.gate import Evaluation, GateConfig, Gates, Verdict, judge
from services.settings import load_params

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
DIRECTIONS = {"psnr": True, "lpips": False, "identity": True}
GATE = GateConfig(
    floors={"psnr": 12.0, "lpips": 0.5}, tolerances={"psnr": 0.1, "identity": 0.02}, min_frames=10, min_clips=2
)


def measured(**metrics: float) -> Evaluation:
    values = {"psnr": 14.0, "lpips": 0.4, "identity": 0.3} | metrics
    return Evaluation(
        "m" * 64, "c" * 64, "g" * 64, "data-1", values, dict(DIRECTIONS), 40, 4, "2026-01-01T00:00:00+00:00"
    )


@st.composite
def evaluations(draw: st.DrawFn) -> Evaluation:
    return measured(**{name: draw(NUMBERS) for name in DIRECTIONS})


def test_floors_only_without_a_champion() -> None:
    assert judge(measured(psnr=12.0, lpips=0.5), None, GATE).passed
    assert not judge(measured(psnr=11.99), None, GATE).passed
    assert not judge(measured(lpips=0.51), None, GATE).passed
    assert judge(measured(identity=-1.0), None, GATE).passed, "identity has no floor"


def test_no_worse_than_the_champion_within_tolerance() -> None:
    champion = measured()
    assert judge(measured(psnr=13.9), champion, GATE).passed
    assert not judge(measured(psnr=13.89), champion, GATE).passed
    assert not judge(measured(lpips=0.41), champion, GATE).passed, "no tolerance named is none given"
    assert judge(measured(identity=0.28), champion, GATE).passed
    assert not judge(measured(identity=0.27), champion, GATE).passed


def test_a_refusal_names_every_failed_metric_and_no_other() -> None:
    verdict = judge(measured(psnr=3.0, identity=0.1), measured(), GATE)
    assert len(verdict.reasons) == 3  # the floor of psnr, the champion's psnr and its identity
    assert "lpips" not in verdict.text
    assert verdict.text.startswith("refused: ")


def test_too_little_data_is_refused() -> None:
    assert not judge(replace(measured(), frames=9), None, GATE).passed
    assert not judge(replace(measured(), clips=1), None, GATE).passed


def test_a_champion_on_other_data_is_no_comparison() -> None:
    verdict = judge(measured(), replace(measured(), data_hash="data-2"), GATE)
    assert not verdict.passed
    assert "data-1" in verdict.text
    assert "data-2" in verdict.text


@pytest.mark.parametrize("name", list(DIRECTIONS))
def test_a_missing_metric_fails_on_either_side(name: str) -> None:
    full = measured()
    lacking = replace(full, metrics={k: v for k, v in full.metrics.items() if k != name})
    undirected = replace(full, higher_is_better={k: v for k, v in DIRECTIONS.items() if k != name})
    for other in (lacking, undirected):
        assert not judge(other, full, GATE).passed
        assert not judge(full, other, GATE).passed


def test_directions_that_disagree_are_refused() -> None:
    assert not judge(measured(), replace(measured(), higher_is_better=DIRECTIONS | {"lpips": True}), GATE).passed


def test_an_empty_verdict_is_a_refusal() -> None:
    assert not Verdict(()).passed


@given(
    evaluations(),
    st.none() | evaluations(),
    st.sampled_from([*DIRECTIONS, "extra"]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
def test_what_is_no_number_never_passes(
    challenger: Evaluation, champion: Evaluation | None, name: str, bad: float
) -> None:
    broken = replace(challenger, metrics={**challenger.metrics, name: bad})
    assert not judge(broken, champion, GATE).passed
    if name != "extra":
        assert not judge(challenger, broken, GATE).passed


@given(evaluations(), st.none() | evaluations(), st.sampled_from(list(DIRECTIONS)), st.floats(0, 1e6))
def test_getting_better_never_turns_a_pass_into_a_refusal(
    challenger: Evaluation, champion: Evaluation | None, name: str, gain: float
) -> None:
    step = gain if DIRECTIONS[name] else -gain
    better = replace(challenger, metrics={**challenger.metrics, name: challenger.metrics[name] + step})
    assert judge(better, champion, GATE).passed >= judge(challenger, champion, GATE).passed


@given(evaluations(), evaluations())
def test_a_champion_only_makes_it_harder(challenger: Evaluation, champion: Evaluation) -> None:
    assert judge(challenger, None, GATE).passed >= judge(challenger, champion, GATE).passed


@given(evaluations())
def test_a_model_is_no_worse_than_itself(evaluation: Evaluation) -> None:
    assert judge(evaluation, evaluation, GATE).passed == judge(evaluation, None, GATE).passed


@given(evaluations(), st.sampled_from([math.nan, math.inf, -math.inf, 1.5]))
def test_json_round_trip(evaluation: Evaluation, value: float) -> None:
    whole = replace(evaluation, metrics={**evaluation.metrics, "extra": value})
    text = whole.to_json()
    again = Evaluation.from_json(text)
    if math.isnan(value):  # which is not equal to itself
        assert math.isnan(again.metrics["extra"])
        again, whole = (replace(e, metrics={**e.metrics, "extra": 0.0}) for e in (again, whole))
    assert again == whole
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"metrics": 1}', '{"metrics": {"psnr": "high"}}'])
def test_text_that_is_no_evaluation_is_bad_input(text: str) -> None:
    with pytest.raises(BadInputError, match="not an evaluation"):
        Evaluation.from_json(text)


@pytest.mark.parametrize("field", ["metrics", "frames", "higher_is_better", "data_hash"])
def test_a_field_of_the_wrong_kind_is_bad_input(field: str) -> None:
    plain = json.loads(measured().to_json()) | {field: {"psnr": "high"} if field != "frames" else "many"}
    with pytest.raises(BadInputError, match="not an evaluation"):
        Evaluation.from_json(json.dumps(plain))


@pytest.mark.parametrize(
    ("floors", "tolerances"),
    [({}, {}), ({"psnr": math.nan}, {}), ({"psnr": 1.0}, {"psnr": -0.1}), ({"psnr": 1.0}, {"psnr": math.inf})],
)
def test_a_gate_that_cannot_judge_is_bad_input(floors: dict[str, float], tolerances: dict[str, float]) -> None:
    with pytest.raises(BadInputError):
        GateConfig(floors, tolerances, 1, 1)


def test_the_shipped_gates_are_read() -> None:
    gates = load_params().section("gate", Gates)
    assert gates.of("stylereel-frame-encoder").floors
    with pytest.raises(BadInputError, match=r"gate\.models\.stylereel-generator"):
        gates.of("stylereel-generator")
