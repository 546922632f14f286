"""What a made person brings beside who it is is taken out; how the edit acts is tested with the channels."""

from __future__ import annotations

import pytest
import torch

from modules.editing.random_identity import beside


def test_nothing_is_left_along_the_vectors_and_the_rest_is_untouched() -> None:
    random = torch.Generator().manual_seed(0)
    people, vectors = (torch.randn(n, 16, generator=random) for n in (9, 3))
    left = beside(people, 50 * vectors, 0.01)
    torch.testing.assert_close(left @ vectors.T, torch.zeros(9, 3), atol=1e-4, rtol=0)
    # What was taken is a mix of the vectors: least squares explain all of it.
    taken = (people - left).T
    found = torch.linalg.lstsq(vectors.T, taken).solution
    torch.testing.assert_close(vectors.T @ found, taken, atol=1e-4, rtol=0)
    torch.testing.assert_close(beside(left, vectors, 0.01), left)


def test_what_rows_share_counts_and_their_noise_does_not() -> None:
    random = torch.Generator().manual_seed(1)
    shared = torch.eye(16)[0]
    rows = shared + 0.02 * torch.randn(9, 16, generator=random)
    left = beside(torch.eye(16), rows, 0.3)
    assert float(left[0].norm()) < 0.05
    assert float(left[1:].norm(dim=1).min()) > 0.98


def test_another_w_dim_is_refused() -> None:
    with pytest.raises(ValueError, match="one w_dim"):
        beside(torch.zeros(2, 4), torch.zeros(3, 5), 0.3)
