import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.data import DataLoader

from datamodules.samples import Sample, SampleDataset, SamplesConfig, draw_codes, shard_seed, write_samples
from datamodules.types import BadInputError

NUM_WS, W_DIM, Z_DIM = 16, 8, 4
MEAN = torch.linspace(-1, 1, W_DIM)


def config(**changes):
    values = {
        "count": 10, "shard_size": 4, "seed": 7, "resolution": 16, "jpeg_quality": 95, "render_batch": 3,
        "two_codes": 0.0, "three_codes": 0.0, "truncation_low": 1.0, "truncation_high": 1.0, "jitter": 0.0,
    }  # fmt: skip
    return SamplesConfig(**{**values, **changes})


def map_z(z, truncation_psi=1.0):
    w = MEAN + truncation_psi * (torch.cat([z, z * 2], dim=1))
    return w[:, None].repeat(1, NUM_WS, 1)


def render(ws):
    """A 32 px image whose colour is the tanh of three entries of the code: invertible, smooth."""
    colour = ws[:, 0, :3].tanh()
    return colour[:, :, None, None].expand(-1, -1, 32, 32)


def draw(n, seed):
    return draw_codes(map_z, n, seed, config(), z_dim=Z_DIM)


def changes_of(ws):
    """Layers at which each sample changes its code."""
    return [set(((s[1:] - s[:-1]).abs().amax(1) > 1e-6).nonzero().flatten().add(1).tolist()) for s in ws]


def test_without_mixing_every_row_is_one_code_and_seeds_decide():
    ws = draw_codes(map_z, 5, 3, config(), z_dim=Z_DIM)
    assert ws.shape == (5, NUM_WS, W_DIM) and ws.dtype == torch.float32
    assert changes_of(ws) == [set()] * 5
    assert torch.equal(ws, draw_codes(map_z, 5, 3, config(), z_dim=Z_DIM))
    assert not torch.equal(ws, draw_codes(map_z, 5, 4, config(), z_dim=Z_DIM))
    assert len({shard_seed(s, n) for s in range(30) for n in range(30)}) == 900


def test_mixing_happens_as_often_as_asked_and_at_every_layer():
    ws = draw_codes(map_z, 4000, 0, config(two_codes=0.5, three_codes=0.3), z_dim=Z_DIM)
    changes = changes_of(ws)
    shares = [sum(len(c) == k for c in changes) / 4000 for k in range(4)]
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3, 0], atol=0.03)
    assert set().union(*changes) == set(range(1, NUM_WS))
    once = torch.tensor([c.copy().pop() for c in changes if len(c) == 1])
    np.testing.assert_allclose(once.bincount(minlength=NUM_WS)[1:] / len(once), 1 / 15, atol=0.025)
    # Three parts of three z's, not one that comes back.
    three = next(s for s, c in zip(ws, changes, strict=True) if len(c) == 2)
    assert len(torch.unique(three, dim=0)) == 3


def test_truncation_is_drawn_between_its_ends_and_jitter_frees_the_rows():
    plain = draw_codes(map_z, 500, 1, config(), z_dim=Z_DIM)
    pulled = draw_codes(map_z, 500, 1, config(truncation_low=0.5, truncation_high=0.7), z_dim=Z_DIM)
    psi = ((pulled - MEAN) / (plain - MEAN)).median(dim=-1).values[:, 0]
    assert 0.5 <= psi.min() < 0.52 and 0.68 < psi.max() <= 0.7
    loose = draw_codes(map_z, 500, 1, config(jitter=0.2), z_dim=Z_DIM)
    noise = loose - plain
    spread = torch.cat([torch.ones(Z_DIM), torch.full((Z_DIM,), 2.0)])
    # Strength is even in [0, 0.2], so the noise's variance is 0.2² / 3.
    np.testing.assert_allclose((noise / spread).std(), 0.2 / 3**0.5, rtol=0.1)
    assert len(torch.unique(loose[0], dim=0)) == NUM_WS


def test_pairs_come_back_as_they_were_made(tmp_path):
    seen = []
    paths = write_samples(tmp_path, draw, render, config(), progress=lambda *done: seen.append(done))
    assert [p.name for p in paths] == [f"samples-0000{i}.safetensors" for i in range(3)]
    assert seen[-1] == (10, 10) and seen == sorted(seen)
    assert sorted(tmp_path.iterdir()) == paths
    dataset = SampleDataset(tmp_path)
    assert len(dataset) == 10
    expected = torch.cat([draw(n, shard_seed(7, i)) for i, n in enumerate((4, 4, 2))])
    for item, ws in zip(dataset, expected, strict=True):
        torch.testing.assert_close(item.ws, ws, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(item.image, render(ws[None])[0, :, :16, :16], atol=0.03, rtol=0)
    assert torch.equal(dataset[-1].ws, dataset[9].ws)
    with pytest.raises(IndexError):
        dataset[10]
    assert len(SampleDataset(tmp_path, count=5)) == 5
    batch = next(iter(DataLoader(pickle.loads(pickle.dumps(dataset)), batch_size=4, num_workers=1)))
    assert (
        isinstance(batch, Sample) and batch.image.shape == (4, 3, 16, 16) and batch.ws.shape == (4, NUM_WS, W_DIM)
    )


def test_a_killed_run_goes_on_at_the_missing_shard(tmp_path):
    rendered = []

    def dies(ws):
        if len(rendered) == 3:
            raise KeyboardInterrupt
        rendered.append(len(ws))
        return render(ws)

    with pytest.raises(KeyboardInterrupt):
        write_samples(tmp_path / "cut", draw, dies, config())
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["samples-00000.safetensors"]
    counted = []
    resumed = write_samples(tmp_path / "cut", draw, lambda ws: counted.append(len(ws)) or render(ws), config())
    assert sum(counted) == 6
    whole = write_samples(tmp_path / "whole", draw, render, config(render_batch=2))
    for a, b in zip(resumed, whole, strict=True):
        one, other = load_file(a), load_file(b)
        assert all(np.array_equal(one[k], other[k]) for k in one)


def test_shards_of_other_settings_or_makers_or_damaged_ones_are_made_anew(tmp_path):
    counted = []

    def counting(ws):
        counted.append(len(ws))
        return render(ws)

    def made(**how):
        counted.clear()
        made_by = {"generator": how.pop("generator", "a")}
        paths = write_samples(tmp_path, draw, counting, config(**how), made_by=made_by)
        return paths, sum(counted)

    paths, n = made()
    assert n == 10 and made()[1] == 0
    assert made(jpeg_quality=90)[1] == 10
    assert made(jpeg_quality=90, generator="b")[1] == 10
    assert made(jpeg_quality=90, generator="b", count=12)[1] == 4
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    with pytest.raises(BadInputError, match="damaged"):
        SampleDataset(tmp_path)
    assert made(jpeg_quality=90, generator="b", count=12)[1] == 4


def test_shards_of_an_earlier_larger_run_go_after_all_are_written(tmp_path):
    write_samples(tmp_path, draw, render, config(count=19))
    (tmp_path / "samples.txt").write_text("a note of the user's")

    def dies(ws):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_samples(tmp_path, draw, dies, config(count=6, jpeg_quality=90))
    assert len(SampleDataset(tmp_path)) == 19
    paths = write_samples(tmp_path, draw, render, config(count=6))
    assert [p.name for p in paths] == ["samples-00000.safetensors", "samples-00001.safetensors"]
    assert len(SampleDataset(tmp_path)) == 6
    assert sorted(tmp_path.iterdir()) == sorted([*paths, tmp_path / "samples.txt"])


def test_samples_of_another_generator_are_refused_with_both_hashes(tmp_path):
    write_samples(tmp_path, draw, render, config(), made_by={"generator": "a"})
    assert len(SampleDataset(tmp_path, made_by="a")) == len(SampleDataset(tmp_path)) == 10
    with pytest.raises(BadInputError, match="samples of generator a, not b; `dvc repro samples`"):
        SampleDataset(tmp_path, made_by="b")
    write_samples(tmp_path, draw, render, config(jpeg_quality=90))
    with pytest.raises(BadInputError, match="samples of generator nobody's, not a"):
        SampleDataset(tmp_path, made_by="a")


def test_wrong_shapes_and_settings_are_refused(tmp_path):
    with pytest.raises(BadInputError, match="no samples"):
        SampleDataset(tmp_path)
    with pytest.raises(ValueError, match="render must give"):
        write_samples(tmp_path, draw, lambda ws: torch.zeros(1, 3, 32, 32), config())
    with pytest.raises(ValueError, match="smaller"):
        write_samples(tmp_path, draw, lambda ws: torch.zeros(len(ws), 3, 8, 8), config())
    for wrong in ({"count": 0}, {"two_codes": 0.8, "three_codes": 0.4}, {"truncation_low": 2.0}, {"jitter": -1.0}):
        with pytest.raises(ValueError):
            config(**wrong)
