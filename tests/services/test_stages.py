"""Where the training of the encoder begins."""

from dataclasses import replace

import torch

from modules.encoders.vit import load_frame_encoder
from modules.generators import load_generator
from services.settings import load_params
from services.stages import FRAME_ENCODER, first_encoder
from services.training import FrameEncoderSettings


def test_training_goes_on_from_the_folder_it_is_given() -> None:
    generator = load_generator()
    settings = load_params().section("frame_encoder", FrameEncoderSettings)
    encoder, used = first_encoder(replace(settings, start_from="assets/frame-encoder"), generator)
    shipped = load_frame_encoder(FRAME_ENCODER, generator.sha256)
    for name, value in shipped.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert used.training.linear_start == 0, "a solved start would overwrite what was learned"
    fresh, same = first_encoder(replace(settings, start_from=""), generator)
    assert same.training.linear_start == settings.training.linear_start > 0
    assert not torch.equal(fresh.head.weight, shipped.head.weight)
