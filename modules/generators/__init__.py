"""Generators behind one protocol."""

from modules.generators.load import load_generator
from modules.generators.protocol import Generator, StyleLayer

__all__ = ["Generator", "StyleLayer", "load_generator"]
