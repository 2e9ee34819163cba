"""What an edit keeps and changes, as a frozen value without tensors, which has a JSON schema and can cross processes.

It depends on no model. `plan` turns it into hooks of the sampling loop. Importing this module doesn't load torch.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from bitvar.config import Config

if TYPE_CHECKING:
    from PIL import Image

MAX_IMAGE_TEXT: Final = 4 * (64 << 20) // 3 + 4
"""Longest base64 text of an image, that of 64 MiB."""

Method: TypeAlias = Literal["redraw", "localized", "inversion", "bit-test", "difference", "tilt"]
Preset: TypeAlias = Literal["preserve", "text"]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


_LEAST_SIDE: Final = 0.001
"""Smallest side of a region as a share of the image."""

_METHODS_OF: Final[Mapping[str, tuple[Method, ...]]] = {
    "threshold": ("bit-test", "localized"),
    "confidence": ("difference",),
    "push": ("tilt",),
    "trust": ("tilt",),
}
"""The methods that each of their settings belongs to."""


class EncodedImage(Config):
    """The bytes of an image file as base64.

    Attributes:
        data: Base64 of a file of a format that `imaging.open` reads.
    """

    data: str = Field(min_length=4, max_length=MAX_IMAGE_TEXT, repr=False)

    @field_validator("data")
    @classmethod
    def _is_base64(cls, value: str) -> str:
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"it must be base64: {error}") from None
        return value

    @staticmethod
    def of(image: "bytes | str | Path | Image.Image") -> "EncodedImage":
        """Encode an image: bytes of a file, its path, or a PIL image, which is stored losslessly.

        Raises:
            UsageError: for a file that can't be read.
        """
        from bitvar.editing.images import file_bytes

        return EncodedImage(data=base64.b64encode(file_bytes(image)).decode("ascii"))

    def decode(self) -> bytes:
        """The bytes of the file."""
        return base64.b64decode(self.data)

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return hashlib.sha256(self.decode()).hexdigest()


def _encode(value: Any) -> Any:
    """Encode images of Python calls. Texts are refused: records and JSON come from elsewhere, and must open no file."""
    if isinstance(value, str):
        raise ValueError("a text is no image: give bytes, a pathlib.Path or a PIL image")
    return value if value is None or isinstance(value, EncodedImage | Mapping) else EncodedImage.of(value)


def _small_mask(mask: Any) -> EncodedImage:
    """Reduce the mask of a region to what the model's grids can hold, so that it fits into an image's record."""
    from bitvar.editing.images import reduced_mask

    given = EncodedImage.model_validate(mask)
    data = given.decode()
    small = reduced_mask(data)
    return given if small == data else EncodedImage.of(small)


class EditSpec(Config):
    """An edit of one image. Unless said otherwise, None leaves a value to the method (`editing.methods`).

    Attributes:
        image: Image to edit, of any size; it is turned by its orientation tag and converted to sRGB.
        mask: Image of the same size that is white where the image may change and black where it stays; grey is in
            between. None for everywhere.
        method: How the image's bits change.
            "redraw" keeps the coarse scales and draws the others anew: image to image, and inpainting with a mask.
            "localized" finds the part on which `source_prompt` and the prompt disagree, and redraws it.
            "inversion", "bit-test" and "difference" change single bits on which the two disagree.
            "tilt" pushes away from `source_prompt` within the mask. None chooses "redraw" without a source prompt, and
            otherwise "tilt" with a mask and "localized" without one.
        strength: Share of the scales that are drawn anew: 0 keeps the image, 1 keeps nothing of it (outside a mask,
            the image is kept whatever the strength).
        keep_scales: Number of coarse scales to keep, in place of the strength's.
        upscale: Whether to keep the scales that an image of its size determines, and to draw the finer ones.
        source_prompt: Text that describes the image as it is.
        preset: "preserve" keeps more of the image, "text" follows the prompt more closely.
        threshold: Fall of a bit's probability from which "bit-test" draws it anew; share of the largest disagreement
            from which "localized" redraws a cell.
        confidence: Probability that "difference" gives the image's own bits, above 0.5.
        push: Strength with which "tilt" pushes away from the source prompt at the first scale; 0 at the last one.
        trust: Most nats between a bit's distribution after and before "tilt".
        grow: How far the mask is widened before it is used, as a share of the image's longer side.
        feather: Width over which the mask's edge is blurred, as a share of the image's longer side.
        fill: What the masked part holds before it is edited: "image", what is there, or "surroundings", a smooth
            continuation of what is around it, which takes things out, or extends a scene, at a strength below 1.
        exact: Whether the result has the size of the image, and exactly its pixels outside the mask, or outside what
            "localized" finds.
        fit: How an image of another ratio is brought to the model's size: "cover" crops it around the mask, or the
            middle; "pad" fills it up with its own edges. None covers, unless that would cut off a part of the mask.
    """

    image: EncodedImage
    mask: EncodedImage | None = None
    method: Method | None = None
    strength: Share | None = None
    keep_scales: int | None = Field(default=None, ge=0, le=64)
    upscale: bool = Field(default=False, strict=True)
    source_prompt: str | None = Field(default=None, min_length=1, max_length=20_000)
    preset: Preset | None = None
    threshold: Share | None = None
    confidence: float | None = Field(default=None, gt=0.5, le=1)
    push: float | None = Field(default=None, ge=0, le=100)
    trust: float | None = Field(default=None, ge=0, le=100)
    grow: Annotated[float, Field(ge=0, le=0.5)] | None = None
    feather: Annotated[float, Field(ge=0, le=0.5)] | None = None
    fill: Literal["image", "surroundings"] = "image"
    exact: bool = Field(default=False, strict=True)
    fit: Literal["cover", "pad"] | None = None

    @field_validator("image", "mask", mode="before")
    @classmethod
    def _encoded(cls, value: Any) -> Any:
        return _encode(value)

    @model_validator(mode="after")
    def _consistent(self) -> "EditSpec":
        if (self.strength is not None) + (self.keep_scales is not None) + self.upscale > 1:
            raise ValueError("strength, keep_scales and upscale say the same: give one of them")
        if self.chosen_method != "redraw" and self.source_prompt is None:
            raise ValueError(f"{self.chosen_method} compares two prompts: give source_prompt, what the image shows")
        if self.chosen_method == "redraw" and self.source_prompt is not None:
            raise ValueError("redraw doesn't use source_prompt: leave it out, or choose another method")
        if self.chosen_method == "tilt" and self.mask is None:
            raise ValueError("tilt changes what a mask selects: give a mask, or choose inversion")
        if self.fill != "image" and self.mask is None:
            raise ValueError("fill is about the part within a mask: give a mask")
        if self.exact and self.mask is None and self.chosen_method != "localized":
            raise ValueError("exact keeps the pixels outside a mask: give a mask, or choose localized")
        for name, methods in _METHODS_OF.items():
            if getattr(self, name) is not None and self.chosen_method not in methods:
                raise ValueError(f"{name} belongs to {' and '.join(methods)}, and the method is {self.chosen_method}")
        return self

    @property
    def chosen_method(self) -> Method:
        """The method, or the one that the other values ask for."""
        if self.method is not None:
            return self.method
        if self.source_prompt is None:
            return "redraw"
        return "localized" if self.mask is None else "tilt"


class MixedPrompt(Config):
    """A further prompt that shares an image with the first one: in a region, from a scale on, or everywhere in part.

    Attributes:
        prompt: Its text.
        weight: How much it replaces the prompts before it, from 0 to 1: one value, or one a scale.
        mask: Image that is white where it applies, reduced to at most 64 pixels a side; None for everywhere.
        box: Region where it applies in place of a mask: left, top, width and height as shares of the image.
        first_scale: Index of the first scale at which it applies.
        last_scale: Index of the last one; None for the last of all.
    """

    prompt: str = Field(min_length=1, max_length=32_000)
    weight: Share | Annotated[tuple[Share, ...], Field(min_length=1, max_length=64)] = 1.0
    mask: EncodedImage | None = None
    box: tuple[Share, Share, Share, Share] | None = None
    first_scale: int = Field(default=0, ge=0, le=63)
    last_scale: int | None = Field(default=None, ge=0, le=63)

    @field_validator("mask", mode="before")
    @classmethod
    def _encoded(cls, value: Any) -> Any:
        return None if value is None else _small_mask(_encode(value))

    @field_validator("weight", "box", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "MixedPrompt":
        if self.mask is not None and self.box is not None:
            raise ValueError("mask and box both say where it applies: give one of them")
        if self.box is not None and min(self.box[2:]) < _LEAST_SIDE:
            raise ValueError(f"the box is empty: width and height must be at least {_LEAST_SIDE}")
        if self.box is not None and max(self.box[0] + self.box[2], self.box[1] + self.box[3]) > 1 + 1e-6:
            raise ValueError(
                "the box reaches out of the image: left and width, and top and height, add up to at most 1"
            )
        if self.last_scale is not None and self.last_scale < self.first_scale:
            raise ValueError("last_scale lies before first_scale")
        return self


class MixedSeed(Config):
    """A second seed whose random numbers are mixed in, for images between two.

    Attributes:
        seed: Seed of the other image.
        weight: How far the numbers go from the first seed's to this one's, from 0 to 1: one value, or one a scale.
    """

    seed: int = Field(ge=0, lt=2**63)
    weight: Share | Annotated[tuple[Share, ...], Field(min_length=1, max_length=64)] = 0.5

    @field_validator("weight", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


class EditSummary(Config):
    """What the record of an edited image says of the edit: everything but the images, which it names by digest.

    Attributes:
        image_sha256, mask_sha256: Digest of the file that was edited, and of its mask.
        method: Method, chosen or default; "instruct" for an edit by an instruction (`pipeline/instruction_editor.py`).
        kept_scales: Number of coarse scales that were kept.
        source_prompt, preset, threshold, confidence, push, trust, grow, feather, fill, exact, fit: As in `EditSpec`.
    """

    image_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mask_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    method: Method | Literal["instruct"]
    kept_scales: int = Field(ge=0, le=64)
    source_prompt: str | None = Field(default=None, max_length=20_000)
    preset: Preset | None = None
    threshold: float | None = None
    confidence: float | None = None
    push: float | None = None
    trust: float | None = None
    grow: float | None = None
    feather: float | None = None
    fill: Literal["image", "surroundings"] = "image"
    exact: bool = False
    fit: Literal["cover", "pad"] | None = None

    @staticmethod
    def of(spec: EditSpec, kept_scales: int) -> "EditSummary":
        """Summarise an edit.

        Args:
            spec: Settings of the edit.
            kept_scales: Number of coarse scales that it kept.
        """
        shared = {name: getattr(spec, name) for name in EditSummary.model_fields if name in EditSpec.model_fields}
        digests = {"image_sha256": spec.image.sha256, "mask_sha256": spec.mask and spec.mask.sha256}
        return EditSummary(**{**shared, **digests, "method": spec.chosen_method, "kept_scales": kept_scales})
