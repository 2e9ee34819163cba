"""Sampling: parameters, the draw of bits, and the one loop."""

from bitvar.sampling.draw import bit_probability, draw_bits, guide
from bitvar.sampling.generate import ScaleResult, generate, generate_apart
from bitvar.sampling.noise import uniform_noise
from bitvar.sampling.params import SamplingParams

__all__ = [
    "SamplingParams",
    "ScaleResult",
    "bit_probability",
    "draw_bits",
    "generate",
    "generate_apart",
    "guide",
    "uniform_noise",
]
