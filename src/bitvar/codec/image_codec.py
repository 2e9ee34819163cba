"""The tokenizer as an image codec, which converts images of any size to bit files and back."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from bitvar.bits import pack, unpack
from bitvar.codec.arguments import (
    require_count,
    require_path,
    require_pixels,
    require_scales,
    require_series,
    require_tokenizer,
)
from bitvar.codec.bitfile import MAX_PIXELS, MAX_REFINE_STEPS, MAX_SCALES, BitFile, BitHeader, Origin
from bitvar.codec.reading import BitFileInput, ImageInput, Pixels, read_bitfile, read_image, require_enough_bits
from bitvar.codec.refinement import correction, multiscale_error, select_images
from bitvar.errors import UsageError, WeightsError
from bitvar.finite import DTYPE_NAMES
from bitvar.imaging.alpha import take_off_white
from bitvar.imaging.convert import RGBA_CHANNELS, channels_first, channels_last
from bitvar.imaging.open import ImageLimits
from bitvar.imaging.pixels import to_signed, to_uint8
from bitvar.pyramid import ScaleStep
from bitvar.runtime.placement import resolve_device, resolve_dtype
from bitvar.scales import Grid, fitted_grids
from bitvar.tokenizer import ImageTokenizer
from bitvar.tokenizer.tiling import require_tile
from bitvar.transformer import TransformerConfig
from bitvar.weights.digests import verify_folder
from bitvar.weights.hub import EMBEDDED_TOKENIZER, resolve_model
from bitvar.weights.identity import TokenizerIdentity
from bitvar.weights.index import GRIDS, TrainedGrids
from bitvar.weights.model_folder import find_tokenizer, load_tokenizer, verify_part

TILE: Final = 1024
MAX_RATIO: Final = 64.0


class Encoding(NamedTuple):
    """Images of one size, encoded by a tokenizer.

    Attributes:
        header: Header of each image's bit file.
        features: Output of the encoder, `(b, d, h, w)`.
        steps: Residual, bits and latent of every scale, coarse to fine.
    """

    header: BitHeader
    features: Tensor
    steps: list[ScaleStep]

    def updated(self, is_better: Bool[Tensor, " b"], new: "Encoding") -> "Encoding":
        """Take the images for which `is_better` is True from `new`, and keep the others."""
        if is_better.all() or not is_better.any():
            return new if is_better.all() else self
        steps = [select_images(is_better, after, before) for after, before in zip(new.steps, self.steps, strict=True)]
        features = torch.where(is_better[:, None, None, None], new.features, self.features)
        return Encoding(self.header, features, steps)


class ImageCodec:
    """An encoder and decoder of images with one tokenizer. Calls leave no state behind.

    Args:
        tokenizer: Tokenizer for images with three channels, or with four, the last of which is opacity.
        identity: Identity of the tokenizer. Bit files name it, and files of another tokenizer are refused.
        known: Grids of the schedules that the tokenizer was trained with, in cells. Images of other sizes get grids
            stretched from these (`scales.fitted_grids`).
        tile: Side of a tile in pixels. Images of more than `tile` x `tile` pixels are processed in tiles.

    Raises:
        UsageError: for a tokenizer with another number of channels.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        identity: TokenizerIdentity,
        *,
        known: Sequence[Sequence[Grid]] = (),
        tile: int = TILE,
    ) -> None:
        require_tokenizer(tokenizer)
        require_tile(tile)
        if tokenizer.config.image_channels not in (3, RGBA_CHANNELS):
            why = f"it takes {tokenizer.config.image_channels} channels"
            raise UsageError("This tokenizer can't take RGB images.", why, "choose one with 3 or 4 channels")
        self.tokenizer, self.identity, self.known, self.tile = tokenizer, identity, tuple(known), tile
        # at least two cells a side: a group norm over a single cell would erase its content
        self.limits = ImageLimits(max_pixels=MAX_PIXELS, min_side=tokenizer.config.stride + 1, max_ratio=MAX_RATIO)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "fp32",
        device: str | torch.device = "auto",
        tile: int = TILE,
    ) -> "ImageCodec":
        """Load a tokenizer and verify every digest of its folder.

        Args:
            model: Model folder, tokenizer folder, hub id `owner/name`, or name of a tokenizer in the package:
                "general" (the default), "fine", which has four times as many bits, or "icons", the tokenizer of the
                embedded model.
            revision: Revision of a hub id.
            dtype: "fp32", "bf16", "fp16", a torch dtype, or "auto": bf16 on CUDA, else fp32.
            device: "cpu", "cuda", "mps", or "auto": the best one available.
            tile: Side of a tile in pixels, as for the class.

        Raises:
            UsageError: for an unknown device or dtype, or a folder that can't be found.
            WeightsError: for missing or altered files.
        """
        require_tile(tile)
        if model is not None:
            require_path(model, "tokenizer")
        chosen = resolve_device(device)
        precision = resolve_dtype(dtype, chosen)
        folder = resolve_model(EMBEDDED_TOKENIZER if model is None else model, revision, what="tokenizer")
        own = find_tokenizer(folder)
        verify_part(folder) if own == folder else verify_folder(folder)  # a tokenizer folder may be part of a model
        try:
            identity = TokenizerIdentity.load(own / "identity.json")
            tokenizer = load_tokenizer(own).to(chosen, precision)
            config = TransformerConfig.load(folder / "transformer" / "config.json") if own != folder else None
            trained = TrainedGrids.load(own / GRIDS).grids if (own / GRIDS).is_file() else ()
        except UsageError as error:
            raise WeightsError(str(error)) from None
        schedules = config.all_schedules() if config else []
        known = [schedule.latent_grids(config.patch_size) for schedule in schedules] if config else list(trained)
        return cls(tokenizer, identity, known=known, tile=tile)

    def encode(self, image: ImageInput, *, scales: int | None = None, refine_steps: int = 0) -> BitFile:
        """Encode an image to bits.

        Args:
            image: Image or path. It is rotated by its orientation tag, converted to sRGB, and placed on white where it
                is transparent; a tokenizer with four channels encodes its opacity as well.
            scales: Number of scales to keep, from the coarsest.
            refine_steps: Steps of iterative refinement (`codec.refinement`); the best bits are kept. Each step costs
                as much as encoding and decoding once. 8 steps achieve most of the possible gain.

        Raises:
            UsageError: for an image that can't be used, or a number of scales or steps out of range.
            ComputationError: if the tokenizer computes NaN or infinity.
        """
        return next(self.encode_many([image], scales=scales, refine_steps=refine_steps))

    def encode_many(
        self, images: Iterable[ImageInput], *, scales: int | None = None, refine_steps: int = 0, batch_size: int = 1
    ) -> Iterator[BitFile]:
        """Encode images to bits, in order, reading `batch_size` at a time. Neighbours of equal size share a batch.

        Raises:
            UsageError: as for `encode`, when it reaches such an image, or for a `batch_size` below 1.
        """
        require_series(images, "images")
        return self._encode_many(images, scales, refine_steps, batch_size)

    def _encode_many(
        self, images: Iterable[ImageInput], scales: int | None, refine_steps: int, batch_size: int
    ) -> Iterator[BitFile]:
        attempts = self.attempt_many(images, scales=scales, refine_steps=refine_steps, batch_size=batch_size)
        for result in attempts:
            if isinstance(result, UsageError):
                raise result
            yield result

    def attempt_many(
        self, images: Iterable[ImageInput], *, scales: int | None = None, refine_steps: int = 0, batch_size: int = 1
    ) -> Iterator[BitFile | UsageError]:
        """Encode images as `encode_many` does, but yield the error of an image that can't be used and continue.

        Raises:
            UsageError: for `scales`, `refine_steps` or a `batch_size` out of range.
        """
        require_count(batch_size, "images at a time", minimum=1)
        require_count(refine_steps, "refinement steps", minimum=0, maximum=MAX_REFINE_STEPS)
        require_scales(scales)
        remaining = iter(images)
        while group := list(islice(remaining, batch_size)):
            read = [self._try_read(image) for image in group]
            for shape, run in groupby(read, key=lambda one: one.values.shape if isinstance(one, Pixels) else None):
                if shape is None:
                    yield from (one for one in run if isinstance(one, UsageError))
                else:
                    yield from self._encode_run([one for one in run if isinstance(one, Pixels)], scales, refine_steps)

    def _try_read(self, image: ImageInput) -> Pixels | UsageError:
        try:
            return read_image(image, self.limits, channels=self.tokenizer.config.image_channels)
        except UsageError as error:
            return error

    def _encode_run(
        self, images: Sequence[Pixels], scales: int | None, refine_steps: int
    ) -> Iterator[BitFile | UsageError]:
        """Encode images of one size."""
        pixels = np.stack([image.values for image in images])
        header = self.header_for(pixels.shape[2], pixels.shape[1])
        if scales is not None and scales > len(header.grids):
            why = f"an image of {header.width}x{header.height} pixels has {len(header.grids)}"
            fix = f"choose 1 to {len(header.grids)}"
            yield from (UsageError(f"Can't take the first {scales} scales.", why, fix) for _ in images)
            return
        _, _, steps = self.encode_batch(pixels, refine_steps=refine_steps, scales=scales)
        packed = [[pack(bits) for bits in step.bits] for step in steps]
        for image, payloads in zip(images, zip(*packed, strict=True), strict=True):
            origin = None
            if image.sha256 is not None:
                origin = self.origin_of(image.sha256, scales=scales, refine_steps=refine_steps)
            yield BitFile(header, payloads, origin).first(scales)

    def origin_of(self, sha256: str, *, scales: int | None, refine_steps: int) -> Origin:
        """Describe how the bits of an image file are made.

        Args:
            sha256: Digest of the image file.
            scales: Number of scales to keep; None for all.
            refine_steps: Steps of iterative refinement.
        """
        precision = DTYPE_NAMES[self.tokenizer.dtype]
        refined_scales = scales or 0 if refine_steps else 0
        return Origin(sha256, refine_steps, refined_scales=refined_scales, precision=precision)

    def decode(self, file: BitFileInput, *, scales: int | None = None) -> Image.Image:
        """Decode bits to an RGB image of its original size, RGBA with four channels. Missing scales make it coarser.

        Args:
            file: Bit file, its content, or its path.
            scales: Number of scales to use, from the coarsest. Naming it also permits a large image with few bits,
                which is refused otherwise.

        Raises:
            UsageError: for a file that is missing, damaged, of another format or of a newer version; for one that
                declares far more pixels than it has bits for (`reading.MAX_PIXELS_PER_BIT`); or as for `BitFile.first`.
            WeightsError: if the bits were made by another tokenizer.
            ComputationError: if the tokenizer computes NaN or infinity.
        """
        return next(self.decode_many([file], scales=scales))

    def decode_many(self, files: Iterable[BitFileInput], *, scales: int | None = None) -> Iterator[Image.Image]:
        """Decode bits to images, in order, one at a time."""
        require_series(files, "bit files")
        require_scales(scales)
        return self._decode_many(files, scales)

    def _decode_many(self, files: Iterable[BitFileInput], scales: int | None) -> Iterator[Image.Image]:
        for file in files:
            read = read_bitfile(file)
            if scales is None:
                require_enough_bits(read, str(file) if isinstance(file, str | Path) else "The bit file")
            yield self._decode(read.first(scales))

    def header_for(self, width: int, height: int) -> BitHeader:
        """Make the header of a bit file for an image of this size in pixels."""
        for name, side in (("pixels of width", width), ("pixels of height", height)):
            require_count(side, name, minimum=1, maximum=MAX_PIXELS)
        config = self.tokenizer.config
        last = (-(-height // config.stride), -(-width // config.stride))
        grids = fitted_grids(last, self.known)
        assert len(grids) <= MAX_SCALES
        return BitHeader(
            width=width,
            height=height,
            bits=config.bits,
            stride=config.stride,
            channels=config.image_channels,
            tokenizer=self.identity.name,
            sha256=self.identity.bits_sha256,
            grids=grids,
        )

    def encode_batch(
        self, images: UInt8[np.ndarray, "b H W c"], *, refine_steps: int = 0, scales: int | None = None
    ) -> Encoding:
        """Encode images of one size, with values 0..255, keeping what every scale computed.

        Args:
            images: One image or more, RGB; with four channels, laid on white (`imaging.alpha.lay_on_white`).
            refine_steps: Steps of iterative refinement, as for `encode`.
            scales: Number of scales that a refinement step decodes, from the coarsest.

        Raises:
            UsageError: for arrays of another kind.
            ComputationError: if the tokenizer computes NaN or infinity.
        """
        require_pixels(images, self.limits, channels=self.tokenizer.config.image_channels)
        encoding = self._encode(self.header_for(images.shape[2], images.shape[1]), images)
        if not refine_steps:
            return encoding
        last = len(encoding.steps) - 1 if scales is None else min(max(scales, 1), len(encoding.steps)) - 1
        return self._refine(encoding, images, refine_steps, last)

    def _encode(
        self, header: BitHeader, images: UInt8[np.ndarray, "b H W c"] | Float32[np.ndarray, "b H W c"]
    ) -> Encoding:
        height, width = images.shape[1:3]
        rows, columns = (side * header.stride for side in header.grids[-1])
        padded = np.pad(images, ((0, 0), (0, rows - height), (0, columns - width), (0, 0)), mode="reflect")
        with torch.inference_mode():
            if rows * columns > self.tile**2:
                features = torch.cat([self._tiled_features(image) for image in padded])
            else:
                features = self.tokenizer.features(to_signed(_planes(padded).to(self.tokenizer.device)))
            return Encoding(header, features, list(self.tokenizer.encode_scales(features, header.grids)))

    def _refine(self, best: Encoding, images: UInt8[np.ndarray, "b H W c"], num_steps: int, last: int) -> Encoding:
        """Refine an encoding and return each image's best one, judged by its reconstruction from scales up to `last`.

        Args:
            best: Encoding to start from; it is also the result for an image that no step improves.
            images: Originals.
            num_steps: Number of refinement steps.
            last: Index of the last scale to decode.
        """
        originals = _planes(images)
        inputs, error = originals, originals - _planes(self.latent_to_pixels(best.steps[last].latent, best.header))
        lowest = multiscale_error(error)
        for step in range(num_steps):
            inputs = inputs + correction(error, step)
            new = self._encode(best.header, channels_last(inputs))
            error = originals - _planes(self.latent_to_pixels(new.steps[last].latent, best.header))
            reached = multiscale_error(error)
            best = best.updated((reached < lowest).to(new.features.device), new)
            del new  # for large images, only one encoding besides the best fits in memory
            lowest = torch.minimum(reached, lowest)
        return best

    def latent_to_pixels(self, latent: Float[Tensor, "b d h w"], header: BitHeader) -> UInt8[np.ndarray, "b H W c"]:
        """Decode a latent, of all scales or only the first, to images of the header's size, with values 0..255.

        Those of a tokenizer with opacity are laid on white, as it encodes them.
        """
        rows, columns = (side * header.stride for side in header.grids[-1])
        with torch.inference_mode():
            if rows * columns <= self.tile**2:
                images = channels_last(to_uint8(self.tokenizer.decode(latent)))
            else:
                images = np.empty((len(latent), rows, columns, header.channels), np.uint8)
                for image, one in zip(images, latent.split(1), strict=True):
                    for tile_rows, tile_columns, pixels in self.tokenizer.tiled_pixels(one, tile=self.tile):
                        image[tile_rows, tile_columns] = channels_last(to_uint8(pixels))[0]
        return np.ascontiguousarray(images[:, : header.height, : header.width])

    def _tiled_features(
        self, image: UInt8[np.ndarray, "H W c"] | Float32[np.ndarray, "H W c"]
    ) -> Float[Tensor, "1 d h w"]:
        def crop(rows: slice, columns: slice) -> Float[Tensor, "1 c H2 W2"]:
            return to_signed(_planes(image[None, rows, columns]))

        return self.tokenizer.tiled_features(crop, (image.shape[0], image.shape[1]), tile=self.tile)

    def _decode(self, file: BitFile) -> Image.Image:
        header = file.header
        self._require_own(header)
        bits = [
            unpack(payload, header.bits, grid)[None].to(self.tokenizer.device)
            for payload, grid in zip(file.payloads, header.grids, strict=False)
        ]
        pixels = self.latent_to_pixels(self.tokenizer.decode_latent(bits, header.grids), header)[0]
        return Image.fromarray(take_off_white(pixels) if header.channels == RGBA_CHANNELS else pixels)

    def _require_own(self, header: BitHeader) -> None:
        config = self.tokenizer.config
        found = (header.sha256, header.bits, header.stride, header.channels)
        if found != (self.identity.bits_sha256, config.bits, config.stride, config.image_channels):
            maker = f"{header.tokenizer!r} (sha256 {header.sha256})"
            raise WeightsError(
                f"The tokenizer {self.identity.name!r} did not make these bits.",
                f"they were made by {maker}; this one has sha256 {self.identity.bits_sha256}",
                f"decode them with {header.tokenizer.removesuffix('-tokenizer')!r}",
            )


def _planes(images: UInt8[np.ndarray, "b H W c"] | Float32[np.ndarray, "b H W c"]) -> Float[Tensor, "b c H W"]:
    """Convert images to float planes without changing their values."""
    return channels_first(images).float()
