"""Published weights into a network of ours, by name, with nothing left over and nothing left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.generators.torch_archive import read_archive

Net = TypeVar("Net", bound=nn.Module)


def read_state(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a ``.pt`` or ``.pth``, or under ``key`` of the dict in it; nothing is executed.

    Raises ``BadInputError`` for a file that is no checkpoint or holds no state dict.
    """
    value = read_archive(path)
    if key is not None:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not value or not all(isinstance(v, Tensor) for v in value.values()):
        where = f"no {key!r}" if key is not None else "no state dict"
        raise BadInputError(f"{path} holds {where} of tensors; choose the published weights themselves")
    # The tensors are views of the mapped file, which may change or vanish.
    return {str(name): tensor.clone() for name, tensor in value.items()}


def build_with_state(make: Callable[[], Net], state: Mapping[str, Tensor], what: str) -> Net:
    """Build a network and give it the tensors of ``state``, frozen, in evaluation mode and float32.

    ``make`` must not compute constants from tensors: the network is built without storage. Counters of
    batch normalisation may be missing. Raises ``BadInputError`` that names ``what`` and the first tensor
    that is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        net = make()
    wanted = {name: value.shape for name, value in net.state_dict().items()}
    counters = {name for name in wanted if name.endswith(".num_batches_tracked")}
    missing = sorted(wanted.keys() - state.keys() - counters)
    unknown = sorted(state.keys() - wanted.keys())
    if missing or unknown:
        reason = f"{missing[0]} is missing" if missing else f"{unknown[0]} is not part of it"
        raise BadInputError(f"these are not the weights of {what}: {reason}; choose the file that belongs to it")
    for name in wanted.keys() & state.keys():
        if state[name].shape != wanted[name]:
            raise BadInputError(
                f"these are not the weights of {what}: {name} is {tuple(state[name].shape)} "
                f"and should be {tuple(wanted[name])}"
            )
    values = {name: state[name].detach() for name in wanted.keys() & state.keys()}
    values |= {name: torch.zeros((), dtype=torch.long) for name in counters - state.keys()}
    floats = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
    net.load_state_dict(floats, assign=True)
    return net.eval().requires_grad_(False)
