from dataclasses import replace

import pytest
import torch
from conformance_cases import case, tensors

from datamodules.types import BadInputError
from modules.encoders.video_vit import (
    VideoEncoder,
    VideoEncoderConfig,
    go_on_from,
    load_video_encoder,
    save_video_encoder,
    start_from_frame_encoder,
)
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, sighted
from modules.generators.protocol import StyleLayer
from modules.generators.rows import coarse_rows
from modules.generators.stylegan2 import StyleGAN2
from modules.model_folder import weights_sha256

SMALL = FrameEncoderConfig(
    image_size=32, stem_channels=(16, 32), width=32, depth=2, heads=2, thumbnail=4, told_width=0
)
VIDEO = VideoEncoderConfig(coarse_resolution=32, code_width=4)
GENERATOR = "a" * 64
ROWS, COARSE, DIM = 6, 4, 8


def stirred(module: torch.nn.Module, seed: int) -> None:
    """Give every parameter values of its own, so that nothing is a zero that stays one."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))


@pytest.fixture
def first() -> FrameEncoder:
    torch.manual_seed(0)
    encoder = FrameEncoder(SMALL, ROWS, torch.randn(DIM), torch.eye(DIM)).eval()
    stirred(encoder, 1)
    return encoder


@pytest.fixture
def trained(first: FrameEncoder) -> VideoEncoder:
    """As if it had learned: no part of it is zero."""
    video = start_from_frame_encoder(first, COARSE, VIDEO)
    stirred(video, 2)
    return VideoEncoder(first, video)


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_before_learning_it_is_the_frame_encoders_coarse_rows_and_the_first_fine_ones(first, frames) -> None:
    encoder = VideoEncoder(first, start_from_frame_encoder(first, COARSE, VIDEO))
    ws, state = encoder(frames)
    alone, _ = first(frames)
    torch.testing.assert_close(ws[:, :COARSE], alone[:, :COARSE], rtol=1e-4, atol=1e-5)
    assert torch.equal(ws[:, COARSE:], ws[:1, COARSE:].expand(7, -1, -1))
    torch.testing.assert_close(ws[0], alone[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(state, ws[-1:])


def test_fine_rows_are_the_states_own_to_the_bit(trained, frames) -> None:
    state = torch.randn(1, ROWS, DIM, generator=torch.Generator().manual_seed(4))
    ws, _ = trained(frames, state)
    assert torch.equal(ws[:, COARSE:], state[:, COARSE:].expand(7, -1, -1))
    assert (ws[:, :COARSE] - trained.first(frames)[0][:, :COARSE]).abs().max() > 0.01


@pytest.mark.parametrize("chunks", [[1] * 7, [3, 4], [6, 1], [2, 0, 5]])
def test_however_frames_are_divided_the_codes_are_the_same_to_the_bit(trained, frames, chunks) -> None:
    whole, last = trained(frames)
    state, parts = None, []
    for part in torch.split(frames, chunks):
        ws, state = trained(part, state)
        parts.append(ws)
        # What leaves the process comes back as a copy of the same numbers.
        state = None if state is None else torch.from_numpy(state.numpy().copy())
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(state, last)


def test_frames_that_go_through_together_agree_with_one_at_a_time(trained, frames) -> None:
    state = torch.randn(1, ROWS, DIM)
    together = trained.video.roll_out(frames[None], state)[0]
    torch.testing.assert_close(together, trained(frames, state)[0], rtol=1e-3, atol=1e-4)


def test_one_pass_finds_what_looking_and_following_find(trained, frames) -> None:
    """One frame is all in one pass; it must be the network that learned in two."""
    previous = torch.randn(7, ROWS, DIM, generator=torch.Generator().manual_seed(6))
    video = trained.video
    torch.testing.assert_close(
        video.step(frames, previous), video.follow(video.look(frames), previous), rtol=1e-4, atol=1e-5
    )


def test_codes_of_another_number_of_frames_are_refused(trained, frames) -> None:
    for ask in (trained.video.step, lambda seen, codes: trained.video.follow(trained.video.look(seen), codes)):
        with pytest.raises(ValueError, match=r"must be \(7, 6, 8\), got \(1, 6, 8\)"):
            ask(frames, torch.zeros(1, ROWS, DIM))


def test_sequences_do_not_see_one_another(trained, frames) -> None:
    sequences = torch.stack([frames[:3], frames[3:6]])
    start = torch.randn(2, ROWS, DIM)
    both = trained.video.roll_out(sequences, start)
    for one in (0, 1):
        alone = trained.video.roll_out(sequences[one : one + 1], start[one : one + 1])
        torch.testing.assert_close(both[one], alone[0], rtol=1e-3, atol=1e-4)


def test_what_is_held_fades_as_a_power(first, frames) -> None:
    """With a hold of tanh(0.5) alone, a difference of the coarse rows shrinks by just that in every frame."""
    video = start_from_frame_encoder(first, COARSE, VIDEO)
    torch.nn.init.constant_(video.hold.bias, 0.5)
    encoder = VideoEncoder(first, video)
    a = torch.randn(1, ROWS, DIM, generator=torch.Generator().manual_seed(5))
    b = a.clone()
    b[:, :COARSE] += 1.0
    apart = (encoder(frames, b)[0] - encoder(frames, a)[0])[:, :COARSE]
    powers = torch.tanh(torch.tensor(0.5)) ** torch.arange(1, 8)
    torch.testing.assert_close(apart, powers[:, None, None].expand_as(apart), rtol=1e-3, atol=1e-4)


def test_the_previous_code_is_seen(trained, frames) -> None:
    a = torch.randn(1, ROWS, DIM, generator=torch.Generator().manual_seed(5))
    for row in (0, ROWS - 1):
        b = a.clone()
        b[:, row] += 1.0
        assert (trained(frames[:1], b)[0] - trained(frames[:1], a)[0])[:, :COARSE].abs().max() > 1e-3


def test_the_transformer_beneath_is_the_frame_encoders_own(first, frames) -> None:
    """Keys and values aside, what ViEN sees in a frame is what timm's blocks make of it."""
    video = start_from_frame_encoder(first, COARSE, VIDEO)
    expected = first.blocks(first.tokens(frames))[:, 0]
    torch.testing.assert_close(video.look(frames).token, expected, rtol=1e-4, atol=1e-5)


def test_new_parts_learn_from_the_first_step(first, frames) -> None:
    video = start_from_frame_encoder(first, COARSE, VIDEO)
    video.roll_out(frames[None], torch.randn(1, ROWS, DIM))[:, :, :COARSE].square().sum().backward()
    for name in ("correct.weight", "hold.weight", "trunk.head.weight", "trunk.stem.0.reduce.weight"):
        assert video.get_parameter(name).grad.abs().sum() > 0, name


def test_the_folder_answers_what_was_saved_and_names_its_frame_encoder(trained, frames, tmp_path) -> None:
    folder = save_video_encoder(tmp_path / "vien", trained.video, trained.first, GENERATOR, "A card.")
    loaded = load_video_encoder(folder, trained.first, GENERATOR)
    torch.testing.assert_close(loaded(frames)[0], trained(frames)[0], rtol=0.02, atol=0.02)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_another_generator_and_another_frame_encoder_are_refused_with_both_hashes(
    trained, first, tmp_path
) -> None:
    ours = weights_sha256(first.state_dict())
    folder = save_video_encoder(tmp_path / "vien", trained.video, first, GENERATOR, "A card.")
    with pytest.raises(BadInputError, match=rf"{GENERATOR}.*{'b' * 64}"):
        load_video_encoder(folder, first, "b" * 64)
    stirred(first, 9)
    with pytest.raises(BadInputError, match=rf"{ours}.*{weights_sha256(first.state_dict())}"):
        load_video_encoder(folder, first, GENERATOR)


def test_vien_goes_on_with_a_new_frame_encoder(trained, first, tmp_path) -> None:
    folder = save_video_encoder(tmp_path / "vien", trained.video, first, GENERATOR, "A card.")
    newer = sighted(first, 4)
    stirred(newer, 9)
    video = start_from_frame_encoder(newer, COARSE, VIDEO)
    assert video.trunk.face_nets is newer.face_nets
    go_on_from(video, folder)
    before = trained.video.state_dict()
    for name, value in video.state_dict().items():
        told = name.startswith("trunk.told_")
        expected = newer.state_dict()[name.removeprefix("trunk.")] if told else before[name]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(BadInputError, match="another shape"):
        go_on_from(start_from_frame_encoder(first, COARSE, replace(VIDEO, code_width=8)), folder)


def test_what_the_face_nets_tell_enters_the_token(first, frames) -> None:
    newer = sighted(first, 4)
    stirred(newer, 9)
    encoder = VideoEncoder(newer, start_from_frame_encoder(newer, COARSE, VIDEO))
    alone, _ = newer(frames)
    torch.testing.assert_close(encoder(frames)[0][:, :COARSE], alone[:, :COARSE], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone, first(frames)[0], atol=1e-2)


def test_states_of_another_shape_are_refused(trained, frames) -> None:
    with pytest.raises(ValueError, match=r"previous codes must be \(1, 6, 8\)"):
        trained(frames, torch.zeros(1, ROWS - 1, DIM))


def stylegan2_layers(resolution: int) -> list[StyleLayer]:
    """Rows as the published networks read them: a convolution each, ToRGB with the next block's first."""
    layers, row, size = [], 0, 4
    while size <= resolution:
        for part in ("conv1", "torgb") if size == 4 else ("conv0", "conv1", "torgb"):
            layers.append(StyleLayer(f"b{size}.{part}", size, 512, row, part == "torgb"))
            row += part != "torgb"
        size *= 2
    return layers


def test_coarse_rows_are_the_papers_eight_of_eighteen() -> None:
    layers = stylegan2_layers(1024)
    assert max(layer.ws_index for layer in layers) == 17
    assert coarse_rows(layers, 32) == 8
    assert coarse_rows(stylegan2_layers(256), 32) == 8
    assert coarse_rows(layers, 4) == 2


def test_coarse_rows_of_real_generators() -> None:
    small = case("stylegan2-64-small")
    generator = StyleGAN2.from_state(tensors(small), small.json["init"])
    assert coarse_rows(generator.layers, 8) == coarse_rows(stylegan2_layers(64), 8) == 4
    with pytest.raises(BadInputError, match="10 of 10 rows feed layers up to 64 px"):
        coarse_rows(generator.layers, 64)


def test_a_canvas_with_a_margin_counts_as_what_it_samples() -> None:
    sizes = (36, 36, 36, 52, 52, 84, 148)
    layers = [StyleLayer("input", 36, 4, 0, False)]
    layers += [StyleLayer(f"L{i}", size, 512, i + 1, False) for i, size in enumerate(sizes)]
    # 52 is 32 and two margins of 10: the layer that takes the last of them is the last coarse one.
    assert coarse_rows(layers, 32) == 7
