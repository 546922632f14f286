"""Read the constants of an OpenVINO IR (XML and BIN); the graph is looked at, never run."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from datamodules.types import BadInputError


class Graph:
    """One IR: its layers by number, what feeds what, and the float32 constants."""

    def __init__(self, xml: Path) -> None:
        try:
            root = ElementTree.parse(xml).getroot()  # noqa: S314  assets.py held the file to its sha256
            self._data = xml.with_suffix(".bin").read_bytes()
        except (OSError, ElementTree.ParseError) as error:
            raise BadInputError(f"{xml} is not an OpenVINO IR ({error}); fetch it again") from error
        self._kind: dict[str, str] = {}
        self._attributes: dict[str, dict[str, str]] = {}
        self._by_output: dict[str, str] = {}
        self._sources: dict[str, list[str]] = {}
        self._consumers: dict[str, list[str]] = {}
        for layer in root.iterfind("layers/layer"):
            number = layer.attrib["id"]
            self._kind[number] = layer.attrib["type"]
            attributes = layer.find("data")
            self._attributes[number] = {} if attributes is None else dict(attributes.attrib)
            for port in layer.iterfind("output/port"):
                for name in port.attrib.get("names", "").split(","):
                    self._by_output.setdefault(name, number)
        for edge in root.iterfind("edges/edge"):
            self._sources.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
            self._consumers.setdefault(edge.attrib["from-layer"], []).append(edge.attrib["to-layer"])

    def named(self) -> list[str]:
        """Names of all tensors that were named."""
        return [name for name in self._by_output if name]

    def layer(self, name: str) -> str:
        """Number of the layer that gives the named tensor."""
        if name not in self._by_output:
            raise BadInputError(f"the IR has no tensor {name!r}: it is another network than MobileStyleGAN")
        return self._by_output[name]

    def of_kind(self, kind: str) -> list[str]:
        """Numbers of all layers of a kind, in the order of the file, which is topological."""
        return [number for number, found in self._kind.items() if found == kind]

    def follow(self, number: str, *kinds: str) -> str:
        """Walk from a layer to its consumer of the first kind, on to that one's of the second, and so on."""
        for kind in kinds:
            (number,) = [c for c in self._consumers.get(number, []) if self._kind[c] == kind]
        return number

    def floats_into(self, number: str) -> list[Tensor]:
        """The float32 constants that feed a layer, directly or through a Reshape."""
        found: list[Tensor] = []
        for source in self._sources.get(number, []):
            if self._kind[source] == "Reshape":
                found += self.floats_into(source)
            elif self._attributes[source].get("element_type") == "f32" and self._kind[source] == "Const":
                found.append(self.constant(source))
        return found

    def constant(self, number: str) -> Tensor:
        """A float32 constant by its layer's number."""
        attributes = self._attributes[number]
        shape = [int(side) for side in attributes["shape"].split(",") if side.strip()]
        values = np.frombuffer(self._data, "<f4", math.prod(shape), int(attributes["offset"]))
        return torch.from_numpy(values.astype(np.float32).reshape(shape))


def read_mobilestylegan(folder: Path) -> dict[str, Tensor]:
    """Tensors of the MobileStyleGAN in ``{MappingNetwork,SynthesisNetwork}.{xml,bin}`` of a folder.

    ``mapping.fc{i}.weight|bias``; ``synthesis.b4.const`` (C, 4, 4); per modulated layer ``b4.conv1``,
    ``b{res}.up|conv1|conv2`` and ``to_img``: ``affine.weight|bias``; per convolution ``depthwise``
    (C, 1, 3, 3), ``weight`` (out, in, k, k), ``bias`` and ``noise`` (H, W). Scales of styles are folded into
    the weights, strengths of noise into the maps.
    """
    tensors: dict[str, Tensor] = {}
    mapping = Graph(folder / "MappingNetwork.xml")
    for index, product in enumerate(mapping.of_kind("MatMul")):
        (tensors[f"mapping.fc{index}.weight"],) = mapping.floats_into(product)
        (tensors[f"mapping.fc{index}.bias"],) = mapping.floats_into(mapping.follow(product, "Add"))
    graph = Graph(folder / "SynthesisNetwork.xml")
    tensors["synthesis.b4.const"] = graph.constant(graph.layer("m.input.input"))[0]
    for name in graph.named():
        style = re.fullmatch(r"m\.(.+?)(\.conv)?\.modulation\.weight", name)
        if style is None:
            continue
        layer, convolution = f"m.{style.group(1)}", style.group(2)
        affine = graph.layer(name)
        bias = graph.constant(graph.layer(name.removesuffix("weight") + "bias"))
        values = {"affine.weight": graph.constant(affine), "affine.bias": bias.flatten()}
        if convolution is not None:
            (scale,) = graph.floats_into(graph.follow(affine, "MatMul", "Add", "Reshape", "Multiply"))
            values |= _convolution(graph, layer, float(scale))
        tensors |= {f"synthesis.{_ours(layer)}.{key}": value for key, value in values.items()}
    return tensors


def _ours(layer: str) -> str:
    if layer == "m.conv1":
        return "b4.conv1"
    _, _, block, name = layer.split(".")
    return "to_img" if name == "to_img" else f"b{8 << int(block)}.{name}"


def _convolution(graph: Graph, layer: str, scale: float) -> dict[str, Tensor]:
    depthwise = f"{layer}.conv.weight_dw"
    separable = depthwise in graph.named()
    weight = graph.layer(f"{layer}.conv.weight_permute" if separable else f"{layer}.conv.weight")
    values = {
        "weight": graph.constant(weight) * scale,
        "bias": graph.constant(graph.layer(f"{layer}.bias")).flatten(),
    }
    if separable:
        values["depthwise"] = graph.constant(graph.layer(depthwise)).flatten(1, 2)
    if not layer.endswith("to_img"):
        (noise,) = graph.floats_into(graph.follow(weight, "Convolution", "Add"))
        values["noise"] = noise[0, 0]
    return values
