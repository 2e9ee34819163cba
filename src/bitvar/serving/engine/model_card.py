"""What the front process knows of the model, as the worker reports it once the model is loaded."""

from typing import Annotated

from pydantic import Field

from bitvar.config import Config
from bitvar.sampling.params import SamplingParams

GridSides = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class NativeSize(Config):
    """A size that the model generates without resizing.

    Attributes:
        width, height: Sides in pixels.
        grids: Rows and columns of tokens of every scale, coarse to fine.
        image_bytes: Predicted memory that drawing one image takes besides the weights, with guidance.
        prompt_bytes: Predicted memory that each further prompt of an image takes, as when an edit compares two.
    """

    width: int = Field(ge=1)
    height: int = Field(ge=1)
    grids: tuple[GridSides, ...] = Field(min_length=1)
    image_bytes: int = Field(default=0, ge=0)
    prompt_bytes: int = Field(default=0, ge=0)

    @property
    def tokens(self) -> int:
        """Number of tokens of one image, over all scales."""
        return sum(rows * columns for rows, columns in self.grids)


class ModelCard(Config):
    """The model that a server serves.

    Attributes:
        name: Name that clients send, such as "icons".
        digest: Name with the first digits of the folder's digest, as image records have it.
        created: When the model was loaded, in seconds since 1970.
        sizes: Sizes that the model generates; the first is its default.
        defaults: Settings of the sampler where a request has none. None is left open.
        max_text_tokens: Number of tokens of the longest prompt.
        adapters: Names of the adapters that requests may choose from.
        alpha: Whether images can be transparent.
        bits: Number of bits per token.
        device, dtype: Where and in which precision the model computes.
        memory_budget: Memory in bytes for images that are being drawn.
        examples: Prompts that suit the model; empty if it doesn't say.
    """

    name: str
    digest: str
    created: int
    sizes: tuple[NativeSize, ...] = Field(min_length=1)
    defaults: SamplingParams
    max_text_tokens: int
    adapters: tuple[str, ...] = ()
    alpha: bool = False
    bits: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    memory_budget: int = Field(default=1 << 40, ge=0)
    examples: tuple[str, ...] = ()

    def size_of(self, width: int, height: int) -> NativeSize:
        """Return the native size with these sides.

        Raises:
            KeyError: The model doesn't generate that size.
        """
        for size in self.sizes:
            if (size.width, size.height) == (width, height):
                return size
        raise KeyError((width, height))
