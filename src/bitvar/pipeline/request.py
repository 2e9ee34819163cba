"""A request for images as a frozen value without tensors, which has a JSON schema and can cross processes.

It depends on no model: a setting of None stands for the model's default. A watermark's key is a secret, so it is no
part of a request. Importing this module doesn't load torch.
"""

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, TypedDict

from pydantic import Field, field_validator, model_validator

from bitvar import arguments
from bitvar.arguments import MAX_IMAGES
from bitvar.config import Config, unknown
from bitvar.editing.spec import EditSpec, Method, MixedPrompt, MixedSeed, Preset
from bitvar.errors import UsageError
from bitvar.sampling.params import MAX_SEED, SamplingParams
from bitvar.sampling.quality import QualityOptions

if TYPE_CHECKING:
    from PIL.Image import Image

    from bitvar.pipeline.control import Control
    from bitvar.sampling.constraint import BitConstraint, PrefixBits
    from bitvar.sampling.watermark import Watermark

MAX_SIDE: Final = 1_000_000
"""Upper bound in pixels, only to keep absurd numbers out of the search for the nearest size."""

MAX_SCALES: Final = 64
MAX_MIXED: Final = 16
"""Most further prompts of an image."""

Background: TypeAlias = Literal["auto", "transparent", "opaque"]
"""How an image is shown: as its model draws it, with transparency, or on white."""

_SAMPLING: Final = tuple(field.name for field in fields(SamplingParams))


class GenerationKwargs(TypedDict, total=False):
    """The options of a call as keyword arguments, so that editors list them; `GenerationRequest` explains each."""

    height: int | None
    width: int | None
    guidance_scale: float | Sequence[float] | None
    temperature: float | Sequence[float] | None
    top_k: int | None
    top_p: float | None
    negative_prompt: str | Sequence[str | None] | None
    num_images_per_prompt: int
    seed: int | Sequence[int] | None
    constraint: "BitConstraint | None"
    watermark: "Watermark | None"
    control: "Control | Image | None"
    batch_invariant: bool
    background: Background
    edit: EditSpec | Mapping[str, Any] | None
    mix: Sequence[MixedPrompt | Mapping[str, Any]]
    mixed_seed: MixedSeed | Mapping[str, Any] | None
    quality: str | QualityOptions | Mapping[str, Any] | None


class EditKwargs(GenerationKwargs, total=False):
    """The options of an edit as keyword arguments; `EditSpec` and `GenerationRequest` explain each."""

    method: Method | None
    strength: float | None
    keep_scales: int | None
    upscale: bool
    source_prompt: str | None
    preset: Preset | None
    threshold: float | None
    confidence: float | None
    push: float | None
    trust: float | None
    grow: float | None
    feather: float | None
    fill: Literal["image", "surroundings"]
    exact: bool
    fit: Literal["cover", "pad"]


class PackedBits(Config):
    """The bits of one scale, the same for all images.

    Attributes:
        bits: Number of bits per cell.
        rows, columns: Grid of the scale, in tokenizer cells.
        data: Base64 of the packed bits (`bits.pack`).
    """

    bits: int = Field(gt=0, le=4096)
    rows: int = Field(gt=0, le=4096)
    columns: int = Field(gt=0, le=4096)
    data: str = Field(max_length=1 << 24)

    @field_validator("data")
    @classmethod
    def _is_base64(cls, value: str) -> str:
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"it must be base64: {error}") from None
        return value


class GenerationRequest(Config):
    """Prompts, and the settings to generate their images with. None stands for the model's default.

    Attributes:
        prompts: One prompt or several.
        params: Settings of the sampler.
        height, width: Requested size in pixels, both or neither; the nearest size that the model supports is used.
        negative_prompt: Text that guidance steers away from: one for all prompts, or one per prompt. None or blank
            text stands for the learned "no text". Refused if guidance is off.
        num_images_per_prompt: Number of images per prompt; a request makes at most 1,024 in total.
        seed: Seed of the first image, counting up for the next ones; or one seed per image. From 0 to 2^63 - 1;
            every bit matters. None draws a random one.
        batch_invariant: Whether to compute each image by itself, so that it is byte for byte the same in any batch, in
            any precision. False computes the batch in one pass, which is faster on GPUs; but the rounding of matrix
            products may then depend on the batch, and flip a bit whose probability is close to its random number.
        prefix: Bits of the first scales, coarse to fine, which are used as given instead of sampled.
        background: "auto" shows images as the model draws them, RGBA if it draws opacity and RGB otherwise;
            "transparent" is RGBA, refused for a model that draws no opacity; "opaque" is RGB, on white.
        edit: Edit of an image that the images are made from; None for new ones. Without a size, the model's size
            nearest to the image's is used. Only with an edit may a prompt be empty: it then stands for "no text".
        mix: Further prompts that share each image, in regions, from a scale on, or in part.
        mixed_seed: Second seed, for images between two.
        quality: Name of a preset ("sharp", "varied" or "faithful"), or options; None for neither.
    """

    prompts: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_IMAGES)]
    params: SamplingParams = SamplingParams()
    height: int | None = Field(default=None, gt=0, le=MAX_SIDE)
    width: int | None = Field(default=None, gt=0, le=MAX_SIDE)
    negative_prompt: str | tuple[str | None, ...] | None = None
    num_images_per_prompt: int = Field(default=1, ge=1, le=MAX_IMAGES)
    seed: int | tuple[int, ...] | None = None
    batch_invariant: bool = Field(default=True, strict=True)
    prefix: Annotated[tuple[PackedBits, ...], Field(max_length=MAX_SCALES)] = ()
    background: Background = "auto"
    edit: EditSpec | None = None
    mix: Annotated[tuple[MixedPrompt, ...], Field(max_length=MAX_MIXED)] = ()
    mixed_seed: MixedSeed | None = None
    quality: QualityOptions | None = None

    @classmethod
    def from_options(
        cls, prompts: str | Sequence[str], options: Mapping[str, Any], *, source: str
    ) -> "GenerationRequest":
        """Build a request from prompts and flat options, as a call takes them.

        Args:
            prompts: One prompt or several.
            options: Fields of a request and of `SamplingParams`, by name.
            source: Where the options come from, for errors.

        Raises:
            UsageError: for an unknown option, or a value out of range.
        """
        given = arguments.checked("prompt", prompts, arguments.entries)
        texts = tuple(arguments.checked("prompt", entry, arguments.text) for entry in given)
        if not texts:
            raise UsageError("There is no prompt.", fix="give at least one")
        rest = {name: value for name, value in options.items() if name not in _SAMPLING}
        known = {*cls.model_fields, *_SAMPLING} - {"prompts", "params"}
        for name in rest:
            if name not in known:
                raise UsageError(unknown(f"key {name!r} in {source}", name, sorted(known)))
        params = SamplingParams.parse({name: options[name] for name in _SAMPLING if name in options}, source=source)
        return cls.parse({"prompts": texts, "params": params, **rest}, source=source)

    @field_validator("height", "width", "num_images_per_prompt", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> int | None:
        return _unless_none(value, arguments.whole_number)

    @field_validator("negative_prompt", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> str | tuple[str | None, ...] | None:
        if value is None or isinstance(value, str):
            return _unless_none(value, arguments.text)
        return tuple(_unless_none(entry, arguments.text) for entry in arguments.entries(value))

    @field_validator("seed", mode="before")
    @classmethod
    def _seed_in_range(cls, value: Any) -> int | tuple[int, ...] | None:
        seed = _unless_none(value, arguments.whole_numbers)
        for one in (seed,) if isinstance(seed, int) else seed or ():
            if not 0 <= one <= MAX_SEED:
                raise ValueError(f"a seed lies between 0 and 2^63 - 1, got {arguments.shown(one)}")
        return seed

    @field_validator("mix", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("quality", mode="before")
    @classmethod
    def _named_quality(cls, value: Any) -> Any:
        return _unless_none(value, QualityOptions.of)

    @model_validator(mode="after")
    def _one_constraint(self) -> "GenerationRequest":
        if self.edit is not None and self.prefix:
            raise ValueError("an edit keeps scales of its own image: leave the prefix out")
        if self.edit is not None and isinstance(self.negative_prompt, tuple) and len(set(self.negative_prompt)) > 1:
            raise ValueError("an edit takes one negative prompt for all prompts")
        return self

    @property
    def num_images(self) -> int:
        """Number of images that the request makes.

        Raises:
            UsageError: when they are too many for one request.
        """
        count = len(self.prompts) * self.num_images_per_prompt
        if count > MAX_IMAGES:
            raise UsageError(
                f"{len(self.prompts):,} prompts of {self.num_images_per_prompt:,} images each are too many.",
                f"a call makes at most {MAX_IMAGES:,} images, since all are held in memory",
                "lower num_images_per_prompt, or call several times",
            )
        return count

    def sampling(self, num_scales: int) -> SamplingParams:
        """The settings of the sampler: the request's own, and those of its quality for what they leave open."""
        return self.params if self.quality is None else self.params.over(self.quality.sampling(num_scales))

    def repeated_prompts(self) -> list[str]:
        """The prompt of each image."""
        return [prompt for prompt in self.prompts for _ in range(self.num_images_per_prompt)]

    def seeds(self) -> list[int]:
        """The seed of each image; drawn where the request has none.

        Raises:
            UsageError: when there are more or fewer seeds than images.
        """
        count = self.num_images
        seed = secrets.randbelow(2**32) if self.seed is None else self.seed
        if isinstance(seed, int):
            return [(seed + i) % (MAX_SEED + 1) for i in range(count)]
        if len(seed) != count:
            raise UsageError(
                f"The list of seeds has {len(seed)}, and {count} are needed.",
                fix=f"give {count} seeds, or one number to count up from",
            )
        return list(seed)

    def negatives(self) -> list[str | None]:
        """The negative prompt of each image; None where it is missing or blank.

        Raises:
            UsageError: when there are more or fewer negative prompts than prompts.
        """
        given = self.negative_prompt
        negatives = given if isinstance(given, tuple) else (given,) * len(self.prompts)
        if len(negatives) != len(self.prompts):
            raise UsageError(
                f"{len(negatives)} negative prompts for {len(self.prompts)} prompts.",
                fix="give one for all, or one per prompt",
            )
        present = [text if text and text.strip() else None for text in negatives]
        return [text for text in present for _ in range(self.num_images_per_prompt)]

    def with_prefix(self, prefix: "PrefixBits") -> "GenerationRequest":
        """The same request with the first scales fixed to the bits of a prefix that all images share."""
        from bitvar.bits import pack

        packed = []
        for scale in prefix.bits:
            if len(scale) != 1:
                why = "a request holds only bits that all images share"
                raise UsageError("The prefix has different bits for each image.", why, "make one request per image")
            bits, rows, columns = scale.shape[1:]
            data = base64.b64encode(pack(scale[0])).decode("ascii")
            packed.append(PackedBits(bits=bits, rows=rows, columns=columns, data=data))
        return self.model_copy(update={"prefix": tuple(packed)})

    def constraint(self) -> "PrefixBits | None":
        """The prefix as a constraint for the sampler; None without one.

        Raises:
            UsageError: when a scale's data is not as long as its grid says.
        """
        if not self.prefix:
            return None
        from bitvar.bits import packed_length, unpack
        from bitvar.sampling.constraint import PrefixBits

        scales = []
        for k, scale in enumerate(self.prefix):
            data, grid = base64.b64decode(scale.data), (scale.rows, scale.columns)
            expected = packed_length(scale.bits, grid)
            if len(data) != expected:
                why = f"its grid takes {expected} bytes, and its data has {len(data)}"
                raise UsageError(f"The bits of scale {k} of the prefix are damaged.", why, "make the request again")
            scales.append(unpack(data, scale.bits, grid))
        return PrefixBits(scales)


def _unless_none(value: Any, rule: Callable[[Any], Any]) -> Any:
    return None if value is None else rule(value)
