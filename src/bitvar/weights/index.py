"""The small JSON files of model and tokenizer folders: `model_index.json` and `grids.json`."""

from typing import Annotated, Final, Literal

from pydantic import Field

from bitvar.config import Config
from bitvar.sampling.params import SamplingParams
from bitvar.scales import MAX_SCALES, MAX_SIDE
from bitvar.weights.identity import Name, TokenizerIdentity
from bitvar.weights.official.names import OfficialBuffer

GRIDS: Final = "grids.json"
FILE_STEM: Final = r"^\w[\w.-]*$"

CellSide = Annotated[int, Field(ge=1, le=2 * MAX_SIDE)]
Cells = tuple[CellSide, CellSide]
"""Rows and columns in cells of the tokenizer. A token covers at most two cells a side."""


class TrainedGrids(Config):
    """The content of a tokenizer folder's `grids.json`.

    Attributes:
        grids: Rows and columns of cells at each scale, coarse to fine; one list for each size trained on.
    """

    grids: tuple[Annotated[tuple[Cells, ...], Field(min_length=1, max_length=MAX_SCALES)], ...] = Field(max_length=1024)


class OfficialSpelling(Config):
    """File names and parameter names of the official files that a model was converted from, to convert it back.

    Attributes:
        transformer_file, tokenizer_file: Names of the files, without suffix.
        block_chunks, inner_names, transformer_buffers, tokenizer_buffers: Fields of `OfficialLayout`.
    """

    transformer_file: str = Field(default="transformer", pattern=FILE_STEM)
    tokenizer_file: str = Field(default="tokenizer", pattern=FILE_STEM)
    block_chunks: int = Field(default=1, ge=1, le=256)
    inner_names: bool = True
    transformer_buffers: dict[Name, OfficialBuffer] = Field(default_factory=dict, max_length=1024)
    tokenizer_buffers: dict[Name, OfficialBuffer] = Field(default_factory=dict, max_length=1024)


class ModelIndex(Config):
    """The content of `model_index.json`.

    Attributes:
        format: Version of the folder's layout.
        name: Name of the model, for people and for image metadata.
        tokenizer: Identity of the tokenizer that the transformer was trained with.
        defaults: Sampling settings.
        official: Names in the official files that the model was converted from; None for other models.
    """

    format: Literal[1] = 1
    name: Name
    tokenizer: TokenizerIdentity
    defaults: SamplingParams = SamplingParams().complete()
    official: OfficialSpelling | None = None
