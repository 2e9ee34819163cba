"""What marks a model or an adapter as an instruction editor."""

from pathlib import Path
from typing import Final, Literal, TypeAlias

from bitvar.config import Config
from bitvar.errors import UsageError, WeightsError
from bitvar.sampling.params import SamplingParams

INSTRUCTION: Final = "instruction.json"
"""File with `InstructionSettings` in the folder of a model, or of an editor's adapter."""

SourcePositions: TypeAlias = Literal["aligned", "official"]
"""Rotary positions of the source tokens; see `instruction/prefix.py:prefixed_positions`."""


class InstructionSettings(Config):
    """How an instruction editor reads its source image.

    Attributes:
        positions: Rotary positions of the source tokens: "aligned" with those of the last scale, or "official", as in
            the released checkpoints of VAREdit.
        square: Whether the editor knows square images only. Others are laid on white in the upper left of a square.
        defaults: Sampling settings for editing; where one is None, the model's own apply.
    """

    positions: SourcePositions = "aligned"
    square: bool = False
    defaults: SamplingParams = SamplingParams()


def load_instruction_settings(folder: Path) -> InstructionSettings | None:
    """Read the settings in a folder; None if it holds no instruction editor.

    Raises:
        WeightsError: If the file can't be used.
    """
    if not (folder / INSTRUCTION).is_file():
        return None
    try:
        return InstructionSettings.load(folder / INSTRUCTION)
    except UsageError as error:
        raise WeightsError(str(error)) from None
