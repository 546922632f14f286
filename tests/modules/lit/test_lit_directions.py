"""Directions that learn, in a linear world: pictures are the codes, attributes are known projections of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modules.lit.direction_training import DirectionTraining
from modules.lit.directions import LitDirections
from modules.losses.edits import AttributeTerm, Edited, EditTerm, Judged

ROWS, WIDTH, ATTRIBUTES = 4, 6, 3
PLAN = DirectionTraining(1, 1, 0.05, 0.0, 0.3, {"attributes": 1.0})
random = torch.Generator().manual_seed(4)
EFFECTS = torch.randn(ATTRIBUTES, ROWS * WIDTH, generator=random)
SPREAD = torch.diag(torch.linspace(0.5, 1.5, WIDTH))
MAY_MOVE = [(0, 2), (1, 4), (0, 4)]
UNITS = torch.diag(torch.tensor([1.0, 0.2, 4.0]))


def render(ws: torch.Tensor) -> torch.Tensor:
    return ws[:, None] * 0.01  # so that nothing is clamped


def measure(images: torch.Tensor) -> torch.Tensor:
    return images[:, 0].flatten(1) @ EFFECTS.T * 100


def first(flip: float = 1.0) -> torch.Tensor:
    """A start that moves its own attribute a little, and all others too."""
    start = torch.zeros(3, ROWS, WIDTH)
    for k, (a, b) in enumerate(MAY_MOVE):
        start[k, a:b] = flip * UNITS[k, k] * EFFECTS[k].reshape(ROWS, WIDTH)[a:b] / 30
        start[k, a:b] += 0.02 * torch.randn(b - a, WIDTH, generator=random)
    return start


def module(
    plan: DirectionTraining = PLAN, start: torch.Tensor | None = None, scales: float = 1.0
) -> LitDirections:
    term = AttributeTerm(measure, UNITS.diagonal() * scales)
    return LitDirections(
        first() if start is None else start, MAY_MOVE, SPREAD, UNITS, plan, render, {"attributes": term}
    )


def seen_all(errors: torch.Tensor) -> Judged:
    return Judged(errors, torch.ones(len(errors), dtype=torch.bool))


def batch() -> dict[str, torch.Tensor]:
    ws = torch.randn(2, ROWS, WIDTH, generator=random)
    code, edit = torch.arange(2).repeat_interleave(6), torch.arange(3).repeat(4)
    strength = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0] * 2)
    return {"ws": ws, "images": render(ws), "code": code, "edit": edit, "strength": strength}


def train(lit: LitDirections, steps: int) -> torch.Tensor:
    """Enough of the optimiser, without a Trainer, that the optimum is reached."""
    optimizer = torch.optim.LBFGS(
        [lit.change], max_iter=steps, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    data = batch()
    weights = {**lit.training_plan.weights, "pull": lit.training_plan.pull}

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.stack([weights[name] * value for name, value in lit.losses(data).items()]).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lit.directions().detach()


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_each_direction_comes_to_move_its_own_attribute_by_its_unit_and_no_other(flip: float) -> None:
    """Also from a start that goes the wrong way."""
    found = train(module(start=first(flip)), 300)
    torch.testing.assert_close(found.flatten(1) @ EFFECTS.T, UNITS, atol=2e-3, rtol=0)


def test_with_a_pull_it_is_the_ridge_solution() -> None:
    """Scales so large that every error is a square: then the optimum of each direction is known."""
    scales, pull = 100.0, 1e-3
    lit = module(replace(PLAN, pull=pull), scales=scales)
    start = lit.start.clone()
    found = train(lit, 500)
    allowed = float(lit.mask.sum() * WIDTH)
    for k in range(3):
        # Per edit: 1/3 of the mean of |(A d - u) / scales|^2 / 2, and pull * |x|^2 / allowed with d = d0 + B x.
        keep = lit.mask[k].expand(ROWS, WIDTH).flatten()
        to_code = float(lit.size[k]) * torch.kron(torch.eye(ROWS), SPREAD)[:, keep]
        scaled = (EFFECTS @ to_code) / (UNITS.diagonal() * scales)[:, None]
        left = (UNITS[k] - EFFECTS @ start[k].flatten()) / (UNITS.diagonal() * scales)
        normal = scaled.T.double() @ scaled.double() / 6 + pull / allowed * torch.eye(scaled.shape[1]).double()
        x = torch.linalg.solve(normal, scaled.T.double() @ left.double() / 6)
        best = start[k].flatten() + (to_code.double() @ x).float()
        torch.testing.assert_close(found[k].flatten(), best, atol=5e-3, rtol=0.02)


def test_gradients_reach_the_rows_that_an_edit_may_move_alone() -> None:
    lit = module()
    sum(lit.losses(batch()).values()).backward()
    for k, (a, b) in enumerate(MAY_MOVE):
        moved = lit.change.grad[k].abs().sum(1) > 0
        assert moved.tolist() == [a <= row < b for row in range(ROWS)]
    with torch.no_grad():
        lit.change.fill_(1.0)
    assert (lit.directions()[~lit.mask[:, :, 0]] == 0).all()


def test_an_edit_is_held_to_its_own_strength_and_code() -> None:
    """The loss of a batch is the mean of the losses of its items, each rendered and judged alone."""
    lit, data = module(), batch()
    data["strength"] = torch.linspace(-2, 3, 12)
    term = lit.terms["attributes"]
    alone = []
    for code, edit, strength in zip(data["code"], data["edit"], data["strength"], strict=True):
        ws = data["ws"][code][None]
        after = render(ws + strength * lit.directions()[edit])
        asked = torch.zeros(1, 3)
        asked[0, edit] = strength * UNITS[edit, edit]
        alone.append(term(Edited(render(ws), after, torch.tensor([0]), asked)).errors)
    torch.testing.assert_close(lit.losses(data)["attributes"], torch.cat(alone).mean())


def test_the_papers_age_direction_is_one_edit_and_its_terms() -> None:
    """Eq. S2: |k - change of age| + lambda_f L_f + lambda_v L_v, whatever the last two are."""
    weights = {"age": 1.0, "landmarks": 100.0, "mesh": 1e-4}

    def age(edited: Edited) -> Judged:
        years = measure(edited.after)[:, 0] - measure(edited.before)[edited.code, 0]
        return seen_all((edited.asked[:, 0] - years).abs())

    def moved(edited: Edited) -> torch.Tensor:
        return (edited.after - edited.before[edited.code]).flatten(1).norm(dim=1)

    terms = {
        "age": age,
        "landmarks": lambda edited: seen_all(moved(edited)),
        "mesh": lambda edited: seen_all(moved(edited) * 2),
    }
    start = first()[:1]
    lit = LitDirections(start, [(0, 2)], SPREAD, torch.ones(1, 1), replace(PLAN, weights=weights), render, terms)
    data = batch()
    data |= {"code": torch.tensor([0, 1]), "edit": torch.tensor([0, 0]), "strength": torch.tensor([20.0, -5.0])}
    got = torch.tensor([20.0, -5.0]) * (start.flatten() @ EFFECTS[0])
    size = torch.tensor([20.0, 5.0]) * start.norm() * 0.01
    expected = (torch.tensor([20.0, -5.0]) - got).abs() + 100 * size + 1e-4 * 2 * size
    found = lit.losses(data)
    total = sum(weights[name] * value for name, value in found.items() if name != "pull")
    torch.testing.assert_close(total, expected.mean(), rtol=1e-4, atol=1e-4)


def test_an_edit_whose_face_is_not_seen_has_no_part_in_the_loss_and_is_counted() -> None:
    """As if it were not in the batch; where no face is seen, nothing is learned, and nothing is no number."""
    data = batch()

    def term(seen: torch.Tensor) -> EditTerm:
        return lambda edited: Judged(edited.after.flatten(1).square().mean(1), seen)

    seen = torch.arange(12) % 3 != 0
    half, alone, none = module(), module(), module()
    half.terms, none.terms = {"attributes": term(seen)}, {"attributes": term(seen & False)}
    alone.terms = {"attributes": term(torch.ones(8, dtype=torch.bool))}
    few = data | {name: data[name][seen] for name in ("code", "edit", "strength")}
    for lit, given in ((half, data), (alone, few), (none, data)):
        lit.losses(given)["attributes"].backward()
    assert half.change.grad is not None and alone.change.grad is not None and none.change.grad is not None
    torch.testing.assert_close(half.change.grad, alone.change.grad)
    assert half.change.grad.any() and not none.change.grad.any()
    assert (half.judge_failures, alone.judge_failures, none.judge_failures) == (4, 0, 12)
    half.losses(data)
    assert half.judge_failures == 8
    logged: dict[str, float] = {}
    half.log = lambda name, value, **how: logged.update({name: float(torch.as_tensor(value).detach())})  # type: ignore[method-assign]
    half.log_dict = lambda found, **how: None  # type: ignore[method-assign]
    half.training_step(data, 0)
    assert logged["train/judge_failures"] == 12


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="rows that it may not"):
        module(start=torch.ones(3, ROWS, WIDTH))
    with pytest.raises(ValueError, match="0 everywhere"):
        module(start=first() * torch.tensor([1.0, 0.0, 1.0])[:, None, None])
    with pytest.raises(ValueError, match="no term named smile"):
        module(replace(PLAN, weights={"smile": 1.0}))
    with pytest.raises(ValueError, match="as many rows"):
        LitDirections(
            first(), MAY_MOVE[:2], SPREAD, UNITS, PLAN, render, {"attributes": lambda edited: edited.asked}
        )
