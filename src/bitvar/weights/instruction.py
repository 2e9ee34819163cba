"""What marks a model or an adapter as an instruction editor."""

from typing import Final, Literal, TypeAlias

from bitvar.config import Config
from bitvar.sampling.params import SamplingParams

SETTINGS: Final = "instruction.json"
"""File of an editor's folder that holds its `InstructionSettings`."""

ADAPTER: Final = "adapter"
"""Folder of an editor's adapter in the editor's folder."""

SourcePositions: TypeAlias = Literal["aligned", "official"]
"""Rotary positions of the source tokens; see `instruction/prefix.py:prefixed_positions`."""


class InstructionSettings(Config):
    """How an instruction editor reads its source image.

    Attributes:
        positions: Rotary positions of the source tokens: "aligned" with those of the last scale, or "official", as in
            the released checkpoints of VAREdit.
        defaults: Sampling settings for editing; where one is None, the model's own apply.
    """

    positions: SourcePositions = "aligned"
    defaults: SamplingParams = SamplingParams()
