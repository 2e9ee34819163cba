"""Detection of the watermark in an image file: encode the image again, and count the green bits.

An image file holds pixels, not bits. The model's image tokenizer turns them back into bits, most of which are those
that were drawn. Iterative refinement (`codec.refinement`) brings them closer. Under the null hypothesis, that the image
knows nothing of the key, each tested bit is green with probability 1/2, independently over keys.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Final

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from bitvar.bits import to_tokens
from bitvar.codec.image_codec import ImageCodec
from bitvar.errors import UsageError, WeightsError
from bitvar.imaging.convert import image_bytes
from bitvar.imaging.fitting import Fit
from bitvar.imaging.open import ImageLimits, require_image
from bitvar.runtime.placement import resolve_device
from bitvar.sampling.watermark import Watermark
from bitvar.scales import ScaleSchedule, nearest_schedule
from bitvar.transformer import TransformerConfig
from bitvar.weights.hub import require_model_folder, resolve_model
from bitvar.weights.identity import TokenizerIdentity, check_pair
from bitvar.weights.index import ModelIndex
from bitvar.weights.model_folder import find_tokenizer, load_tokenizer, verify_part

REFINE_STEPS: Final = 16
FALSE_POSITIVE_RATE: Final = 0.001
_LIMITS: Final = ImageLimits(max_ratio=64.0)


@dataclass(frozen=True)
class GreenCount:
    """The result of counting.

    Attributes:
        green: Number of green bits.
        total: Number of tested bits.
    """

    green: int
    total: int

    @property
    def z(self) -> float:
        """Number of standard deviations by which the green bits exceed the half that chance gives."""
        return (2 * self.green - self.total) / math.sqrt(self.total) if self.total else 0.0

    @property
    def p_value(self) -> float:
        """Probability of at least as large a `z` without the watermark."""
        return 0.5 * math.erfc(self.z / math.sqrt(2))


@dataclass(frozen=True)
class Detection:
    """The test of one image.

    Attributes:
        count: Count of green bits.
        size: Width and height of the image in pixels.
        native_size: Size at which the image was tested, one that the model generates.
    """

    count: GreenCount
    size: tuple[int, int]
    native_size: tuple[int, int]

    @property
    def resized(self) -> bool:
        """Whether the image had to be resized, which costs evidence."""
        return self.size != self.native_size

    def is_marked(self, false_positive_rate: float = FALSE_POSITIVE_RATE) -> bool:
        """Decide whether the image carries the watermark, wrongly for this share of images that don't."""
        return self.count.z > threshold(false_positive_rate)


def threshold(false_positive_rate: float) -> float:
    """Compute the `z` above which an image counts as marked.

    Raises:
        UsageError: for a rate that isn't between 0 and 1/2.
    """
    if not 0 < false_positive_rate <= 0.5:
        why = f"it must lie above 0 and be at most 0.5, got {false_positive_rate:g}"
        raise UsageError("The false positive rate can't be used.", why, "choose one such as 0.001")
    return -NormalDist().inv_cdf(false_positive_rate)


def count_green(bits: Sequence[Bool[Tensor, "d _ _"]], watermark: Watermark, *, patch_size: int = 1) -> GreenCount:
    """Count the green bits of an image.

    Args:
        bits: Bits of every scale, coarse to fine, in tokenizer cells.
        watermark: Watermark to test for.
        patch_size: Cells per side of a transformer token.
    """
    green = total = 0
    for k, scale in enumerate(bits):
        tokens = to_tokens(scale[None], patch_size)[0].cpu().numpy()
        marks = watermark.green_bits(k, tokens)
        if marks is not None:
            green, total = green + int(marks.sum()), total + marks.size
    return GreenCount(green, total)


class WatermarkDetector:
    """Tests images for a watermark with the image tokenizer of the model that drew them.

    Args:
        codec: Codec of the tokenizer.
        schedules: Schedules of the model.
        patch_size: Cells per side of a transformer token.
    """

    def __init__(self, codec: ImageCodec, schedules: Sequence[ScaleSchedule], *, patch_size: int) -> None:
        self.codec, self.schedules, self.patch_size = codec, tuple(schedules), patch_size
        self.stride = codec.tokenizer.config.stride * patch_size

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        tokenizer: str | Path | None = None,
        device: str | torch.device = "auto",
    ) -> "WatermarkDetector":
        """Load the image tokenizer and the schedules of a model, and verify the tokenizer's digests.

        Args:
            model: Model that drew the images: a folder, or a hub id; None for the embedded model.
            revision: Branch, tag or commit of a hub id.
            tokenizer: Folder or hub id of a tokenizer that makes the same bits; None for the model's own.
            device: "cpu", "cuda", "mps", or "auto": the best one available.

        Raises:
            UsageError: for a model or device that can't be found.
            WeightsError: for missing, altered or mismatched files.
        """
        folder = resolve_model(model, revision)
        require_model_folder(folder)
        own = find_tokenizer(folder if tokenizer is None else resolve_model(tokenizer, what="tokenizer"))
        verify_part(own)
        try:
            config = TransformerConfig.load(folder / "transformer" / "config.json")
            identity = TokenizerIdentity.load(own / "identity.json")
            check_pair(ModelIndex.load(folder / "model_index.json").tokenizer, identity)
        except UsageError as error:
            raise WeightsError(str(error)) from None
        schedules = config.all_schedules()
        known = [schedule.latent_grids(config.patch_size) for schedule in schedules]
        codec = ImageCodec(load_tokenizer(own).to(resolve_device(device)), identity, known=known)
        return cls(codec, schedules, patch_size=config.patch_size)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Every (width, height) that the model generates."""
        return [(s[-1][1] * self.stride, s[-1][0] * self.stride) for s in self.schedules]

    def detect_file(self, path: Path, watermark: Watermark, **options: object) -> Detection:
        """Test an image file, as `detect` does.

        Raises:
            UsageError: The file can't be read, or isn't an image.
        """
        transparent = self.codec.tokenizer.config.has_opacity
        image = require_image(path, _LIMITS, todo="give an image, such as a PNG", transparent=transparent)
        return self.detect(image, watermark, **options)  # pyright: ignore[reportArgumentType]

    def detect(
        self,
        image: Image.Image,
        watermark: Watermark,
        *,
        size: tuple[int, int] | None = None,
        refine_steps: int = REFINE_STEPS,
    ) -> Detection:
        """Test an image.

        Args:
            image: RGB or RGBA image; a model without opacity sees it on white. One of another size is scaled to the
                native one; what was cropped away is filled.
            watermark: Watermark to test for.
            size: Width and height at which the model drew it; None for the native size nearest to the image's.
            refine_steps: Steps of iterative refinement.

        Raises:
            UsageError: The model generates no such size, or marks none of its scales.
        """
        schedule = self._schedule(size or image.size, exact=size is not None)
        native = (schedule[-1][1] * self.stride, schedule[-1][0] * self.stride)
        if len(schedule) <= watermark.first_scale:
            why = f"it starts at scale {watermark.first_scale + 1}, and an image of this model has {len(schedule)}"
            raise UsageError("The watermark marks no scale of the image.", why, "give the key that the image has")
        scaled = image if image.size == native else Fit("pad").apply(image, native)
        pixels = image_bytes(scaled, self.codec.tokenizer.config.image_channels)[None]
        steps = self.codec.encode_batch(pixels, refine_steps=refine_steps).steps
        count = count_green([step.bits[0] for step in steps], watermark, patch_size=self.patch_size)
        return Detection(count, image.size, native)

    def _schedule(self, size: tuple[int, int], *, exact: bool) -> ScaleSchedule:
        width, height = size
        schedule = nearest_schedule(self.schedules, height=height, width=width, stride=self.stride, tolerance=math.inf)
        if exact and (schedule[-1][1] * self.stride, schedule[-1][0] * self.stride) != size:
            known = ", ".join(f"{w}x{h}" for w, h in self.sizes[:8])
            raise UsageError(
                f"The model doesn't generate {width}x{height}.", f"it generates {known}", "give one of them"
            )
        return schedule
