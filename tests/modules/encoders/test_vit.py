import copy
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.linear_model import Ridge

from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.encoders.vit import (
    FrameEncoder,
    FrameEncoderConfig,
    load_frame_encoder,
    save_frame_encoder,
    sighted,
    w_statistics,
)
from modules.perception.identity import FaceSight
from services.settings import load_params
from services.training.trainer import FrameEncoderSettings

SMALL = FrameEncoderConfig(
    image_size=32, stem_channels=(16, 32), width=32, depth=2, heads=2, thumbnail=4, told_width=0
)
GENERATOR = "a" * 64


@pytest.fixture
def encoder() -> FrameEncoder:
    torch.manual_seed(0)
    return FrameEncoder(SMALL, 6, torch.randn(8), torch.eye(8)).eval()


def test_w_statistics_agree_with_scipy() -> None:
    w = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 6)
    mean, basis = w_statistics(w)
    np.testing.assert_allclose(mean, w.numpy().mean(0), atol=1e-5)
    np.testing.assert_allclose(basis, sqrtm(np.cov(w.numpy().T)), rtol=1e-3, atol=1e-3)


def test_the_linear_start_is_ridge_regression(encoder: FrameEncoder) -> None:
    generator = torch.Generator().manual_seed(2)
    frames = torch.rand(200, 3, 32, 32, generator=generator) * 2 - 1
    frames = torch.nn.functional.interpolate(frames[..., ::8, ::8], size=32)
    thumbnails = encoder.thumbnails(frames)
    ws = (thumbnails @ torch.randn(48, 48, generator=generator)).unflatten(1, (6, 8)) + 3.0
    wide = FrameEncoder(replace(SMALL, width=48), 6, encoder.w_mean, encoder.w_basis).eval()
    wide.start_linear(thumbnails, ws, ridge=0.1)
    model = Ridge(alpha=0.1 * len(ws)).fit(thumbnails.numpy(), ws.flatten(1).numpy())
    fresh = frames.flip(-1)
    expected = model.predict(wide.thumbnails(fresh).numpy())
    np.testing.assert_allclose(wide(fresh)[0].flatten(1).detach(), expected, rtol=1e-3, atol=1e-2)


def test_a_head_of_zeros_answers_the_mean_face(encoder: FrameEncoder) -> None:
    torch.nn.init.zeros_(encoder.head.weight)
    ws, state = encoder(torch.rand(3, 3, 32, 32))
    assert state is None
    torch.testing.assert_close(ws, encoder.w_mean.expand(3, 6, 8))


def test_each_image_is_encoded_on_its_own(encoder: FrameEncoder) -> None:
    frames = torch.rand(3, 3, 32, 32) * 2 - 1
    together, _ = encoder(frames)
    torch.testing.assert_close(together[1:2], encoder(frames[1:2])[0], rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_it_learns_what_a_linear_map_of_the_image_says(encoder: FrameEncoder) -> None:
    """Codes that follow from the image's mean colour are learned within a few steps."""
    encoder.train()
    generator = torch.Generator().manual_seed(1)
    colours = torch.rand(64, 3, generator=generator) * 2 - 1
    frames = colours[:, :, None, None].expand(-1, -1, 32, 32)
    target = (colours @ torch.randn(3, 48, generator=generator)).unflatten(1, (6, 8))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (encoder(frames)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_the_folder_answers_what_was_saved(encoder: FrameEncoder, tmp_path) -> None:
    folder = save_frame_encoder(tmp_path / "encoder", encoder, GENERATOR, "A card.", {"steps": 3})
    loaded = load_frame_encoder(folder, GENERATOR)
    frames = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(frames)[0], encoder(frames)[0], rtol=0.01, atol=0.01)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_another_generators_encoder_is_refused_with_both_hashes(encoder: FrameEncoder, tmp_path) -> None:
    folder = save_frame_encoder(tmp_path / "encoder", encoder, GENERATOR, "A card.")
    with pytest.raises(BadInputError, match=rf"{GENERATOR}.*{'b' * 64}"):
        load_frame_encoder(folder, "b" * 64)


def test_shapes_are_checked_where_they_enter(encoder: FrameEncoder) -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\)"):
        encoder(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="multiple"):
        FrameEncoderConfig(
            image_size=30, stem_channels=(16, 32), width=32, depth=2, heads=2, thumbnail=4, told_width=0
        )


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    """Two persons, ``(2, 3, 32, 32)``."""
    pictures = [cv2.imread(str(asset_path("clips", name))) for name in ("single_face.jpg", "45-m7-di-ph.jpg")]
    small = [cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA) for picture in pictures]
    return torch.from_numpy(np.stack(small)[..., ::-1].copy()).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.fixture
def seeing(encoder: FrameEncoder) -> FrameEncoder:
    """An encoder that has learned what the face nets tell."""
    torch.manual_seed(1)
    grown = sighted(encoder, 6).eval()
    torch.nn.init.normal_(grown.told_expand.weight)
    return grown


def sight(seen: bool, landmarks: float = 0.5, count: int = 1) -> FaceSight:
    embedding = torch.randn(count, 512, generator=torch.Generator().manual_seed(3))
    return FaceSight(embedding, torch.full((count, 68, 3), landmarks), torch.tensor([seen] * count))


def told(encoder: FrameEncoder, what: FaceSight, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    assert encoder.face_nets is not None
    with monkeypatch.context() as patch:
        patch.setattr(encoder.face_nets, "look", lambda frames: what)
        return encoder(torch.zeros(1, 3, 32, 32))[0].detach()


def test_what_the_face_nets_say_moves_the_codes(seeing: FrameEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = told(seeing, sight(True), monkeypatch)
    for other in (sight(True, landmarks=0.6), sight(True)._replace(embedding=-sight(True).embedding)):
        assert (told(seeing, other, monkeypatch) - usual).abs().max() > 1e-3


def test_landmarks_of_no_face_say_nothing(seeing: FrameEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [told(seeing, sight(False, landmarks=value), monkeypatch) for value in (0.5, 40.0)]
    torch.testing.assert_close(*answers)


def test_face_nets_are_no_weights_and_shared_by_copies(seeing: FrameEncoder) -> None:
    assert not [name for name in seeing.state_dict() if name.startswith("face_nets")]
    assert copy.deepcopy(seeing).face_nets is seeing.face_nets


def test_an_encoder_that_begins_to_see_answers_as_before(encoder: FrameEncoder, faces: torch.Tensor) -> None:
    torch.testing.assert_close(sighted(encoder, 6)(faces)[0], encoder(faces)[0])


def made(encoder: FrameEncoder, count: int) -> tuple[torch.Tensor, FaceSight, torch.Tensor]:
    """Frames, what is seen in them, and codes that miss something that 3 of the numbers seen would explain."""
    random = torch.Generator().manual_seed(5)
    frames = torch.rand(count, 3, 32, 32, generator=random) * 2 - 1
    seen = FaceSight(
        0.1 * torch.randn(count, 512, generator=random),
        torch.rand(count, 68, 3, generator=random),
        torch.ones(count, dtype=torch.bool),
    )
    numbers = torch.cat([seen.embedding, seen.landmarks.flatten(1)], 1)
    missing = numbers[:, [3, 400, 600]] @ torch.randn(3, 32, generator=random)
    with torch.no_grad():
        token = encoder.blocks(encoder.tokens(frames))[:, 0]
        return frames, seen, encoder.codes(token + missing)


def test_what_is_told_is_solved_as_a_ridge_regression(
    seeing: FrameEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against scikit-learn, with the class tokens as further columns whose part is left out."""
    wide = sighted(replace_told(seeing), 32).eval()
    frames, seen, ws = made(wide, 900)
    assert wide.face_nets is not None
    monkeypatch.setattr(wide.face_nets, "look", lambda frames: seen)
    with torch.no_grad():
        token = wide.blocks(wide.tokens(frames))[:, 0]
        before = wide.codes(token)
        wide.start_told([frames], ws, ridge=0.01)
        got = (wide(frames)[0] - before).flatten(1).numpy()
    numbers = torch.cat([seen.embedding, seen.landmarks.flatten(1)], 1)
    scaled = ((numbers - numbers.mean(0)) / numbers.std(0)).clamp(-6, 6).numpy()
    x = np.concatenate([scaled, (token / token.std(0).mean()).numpy(), np.ones((900, 1))], axis=1)
    model = Ridge(alpha=0.01 * 900, fit_intercept=False).fit(x, (ws - before).flatten(1).numpy())
    np.testing.assert_allclose(got, scaled @ model.coef_[:, :716].T, atol=2e-3 * np.abs(got).max())
    assert np.abs(got).max() > 0.05


def test_nothing_is_told_on_average_of_real_frames(seeing: FrameEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, seen, ws = made(seeing, 60)
    assert seeing.face_nets is not None
    monkeypatch.setattr(seeing.face_nets, "look", lambda batch: FaceSight(*(part[: len(batch)] for part in seen)))
    seeing.start_told([frames], ws, ridge=0.01, real=[frames[:7], frames[:5]])
    said = torch.cat([seeing.told(frames[:7]), seeing.told(frames[:5])])
    assert said.norm() > 0.01
    torch.testing.assert_close(said.mean(0), torch.zeros(32), atol=1e-4, rtol=0)


def replace_told(encoder: FrameEncoder) -> FrameEncoder:
    """The same without what is told."""
    blind = FrameEncoder(replace(encoder.config, told_width=0), encoder.num_ws, encoder.w_mean, encoder.w_basis)
    state = {name: value for name, value in encoder.state_dict().items() if not name.startswith("told_")}
    blind.load_state_dict(state)
    return blind


def test_faceless_samples_have_nothing_to_tell(seeing: FrameEncoder) -> None:
    with pytest.raises(BadInputError, match="the mesh sees no faces"):
        seeing.start_told([torch.zeros(3, 3, 32, 32)], torch.zeros(3, 6, 8), ridge=0.1)


def test_a_seeing_encoder_comes_back_from_its_folder(seeing: FrameEncoder, faces: torch.Tensor, tmp_path) -> None:
    folder = save_frame_encoder(tmp_path / "encoder", seeing, GENERATOR, "A card.")
    loaded = load_frame_encoder(folder, GENERATOR)
    torch.testing.assert_close(loaded(faces)[0], seeing(faces)[0].detach(), rtol=0.02, atol=0.02)


def test_an_encoder_of_before_there_were_face_nets_can_be_read(encoder: FrameEncoder, tmp_path) -> None:
    folder = save_frame_encoder(tmp_path / "encoder", encoder, GENERATOR, "A card.")
    config = json.loads((folder / "config.json").read_text())
    del config["network"]["told_width"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_frame_encoder(folder, GENERATOR).face_nets is None


def test_the_network_of_params_has_at_most_twelve_million_parameters() -> None:
    network = load_params().section("frame_encoder", FrameEncoderSettings).network
    encoder = FrameEncoder(network, 16, torch.zeros(512), torch.eye(512))
    assert network.sighted and sum(parameter.numel() for parameter in encoder.parameters()) <= 12e6
