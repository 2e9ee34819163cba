"""The tokenizer as a tool: images of any size to bit files, and bit files to images."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from bitvar import pyramid
from bitvar.bits import pack, unpack
from bitvar.codec.arguments import (
    require_count,
    require_path,
    require_pixels,
    require_scales,
    require_series,
    require_tokenizer,
)
from bitvar.codec.bitfile import MAX_PASSES, MAX_PIXELS, MAX_SCALES, BitFile, BitHeader, Origin
from bitvar.codec.refinement import choose, correction, seen_error
from bitvar.data.walking import Skipped, list_files
from bitvar.errors import UsageError, WeightsError
from bitvar.imaging.formats import IMAGE_SUFFIXES, READ
from bitvar.imaging.open import ImageLimits, Location, RefusedError, as_rgb, check_image, decode_image
from bitvar.imaging.pixels import to_signed, to_uint8
from bitvar.runtime.placement import resolve_device, resolve_dtype
from bitvar.scales import Grid, fitted_grids
from bitvar.tokenizer import InfinityTokenizer
from bitvar.tokenizer.tiling import require_tile, tiled_features, tiled_pixels
from bitvar.transformer import TransformerConfig
from bitvar.weights.digests import verify_folder
from bitvar.weights.hub import EMBEDDED_TOKENIZER, resolve_named
from bitvar.weights.model_folder import (
    GRIDS,
    TokenizerIdentity,
    TrainedGrids,
    find_tokenizer,
    load_component,
    verify_part,
)

if TYPE_CHECKING:
    from bitvar.codec.folders import Done, Failed, FolderCounts

ImageInput = Image.Image | str | Path
"""An image, or the path of its file."""

TILE: Final = 1024
MAX_RATIO: Final = 64.0
MAX_FILE_BYTES: Final = 1 << 31

SMALL: Final = 1_000_000
"""Pixels that any bit file may claim."""

PIXELS_A_BIT: Final = 500
"""Pixels that a bit which is there may stand for in a larger image: a whole file has one and more for every pixel."""

_PRECISIONS: Final = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}


class Encoding(NamedTuple):
    """Images of one size as a tokenizer sees them.

    Attributes:
        header: of the bit file of each.
        features: the encoder's output, `(b, d, h, w)`.
        steps: every scale, coarse to fine.
    """

    header: BitHeader
    features: Tensor
    steps: list[pyramid.ScaleStep]

    def replaced(self, better: Bool[Tensor, " b"], new: "Encoding") -> "Encoding":
        """The same images, those of `better` as in `new`."""
        if better.all() or not better.any():
            return new if better.all() else self
        steps = [choose(better, one, other) for one, other in zip(new.steps, self.steps, strict=True)]
        features = torch.where(better[:, None, None, None], new.features, self.features)
        return Encoding(self.header, features, steps)


class _Read(NamedTuple):
    """An image's pixels, and the digest of its file, if it came from one."""

    pixels: UInt8[np.ndarray, "H W c"]
    sha256: str | None


class ImageCodec:
    """Encodes and decodes with one tokenizer. Holds no state of a call.

    Args:
        tokenizer: of three channels.
        identity: its own; bit files name it, and those of another are refused.
        known: grids of the schedules it was trained with, in cells; other sizes get stretched ones
            (`scales.fitted_grids`).
        tile: images of more than `tile` x `tile` pixels pass in tiles of that side.

    Raises:
        UsageError: for a tokenizer of other channels.
    """

    def __init__(
        self,
        tokenizer: InfinityTokenizer,
        identity: TokenizerIdentity,
        *,
        known: Sequence[Sequence[Grid]] = (),
        tile: int = TILE,
    ) -> None:
        require_tokenizer(tokenizer)
        require_tile(tile)
        if tokenizer.config.image_channels != 3:
            why = f"it takes {tokenizer.config.image_channels} channels"
            raise UsageError("This tokenizer can't take RGB images.", why, "choose one of 3 channels")
        self.tokenizer, self.identity, self.known, self.tile = tokenizer, identity, tuple(known), tile
        # a norm of one cell has nothing to compare: two cells a side, at least
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
        """Load a tokenizer, every digest of its folder verified.

        Args:
            model: a model folder, a tokenizer folder, or a hub id `owner/name`; None is "general", in the package, as
                are "fine", of four times the bits, and "icons", that of the embedded model.
            revision: of a hub id.
            dtype: "fp32", "bf16", "fp16", a torch dtype, or "auto": bf16 on CUDA, else fp32.
            device: "cpu", "cuda", "mps", or "auto": the best there is.
            tile: as for the class.

        Raises:
            UsageError: for an unknown device or dtype, or a folder that can't be found.
            WeightsError: for missing or altered files.
        """
        require_tile(tile)
        if model is not None:
            require_path(model, "tokenizer")
        chosen = resolve_device(device)
        precision = resolve_dtype(dtype, chosen)
        folder = resolve_named(EMBEDDED_TOKENIZER if model is None else model, revision, what="tokenizer")
        own = find_tokenizer(folder)
        verify_part(folder) if own == folder else verify_folder(folder)  # a part may lie in its model
        try:
            identity = TokenizerIdentity.load(own / "identity.json")
            tokenizer = load_component(InfinityTokenizer, own).to(chosen, precision)
            config = TransformerConfig.load(folder / "transformer" / "config.json") if own != folder else None
            trained = TrainedGrids.load(own / GRIDS).grids if (own / GRIDS).is_file() else ()
        except UsageError as error:
            raise WeightsError(str(error)) from None
        schedules = config.all_schedules() if config else []
        known = [schedule.latent_grids(config.patch_size) for schedule in schedules] if config else list(trained)
        return cls(tokenizer, identity, known=known, tile=tile)

    def encode(self, image: ImageInput, *, scales: int | None = None, passes: int = 0) -> BitFile:
        """An image to bits.

        Args:
            image: turned by its orientation tag, converted to sRGB, on white where it is transparent.
            scales: keep the first ones only.
            passes: times to look at what comes back, correct what goes in, and encode again (`codec.refinement`); the
                best bits count. Each costs as much as encoding and decoding: 8 give most of what there is to gain.

        Raises:
            UsageError: for an image that can't be used, passes below 0, or as `BitFile.first`.
            ComputationError: if the tokenizer gives NaN or infinity.
        """
        return next(self.encode_many([image], scales=scales, passes=passes))

    def encode_many(
        self, images: Iterable[ImageInput], *, scales: int | None = None, passes: int = 0, batch_size: int = 1
    ) -> Iterator[BitFile]:
        """Images to bits, in order, `batch_size` read at a time; neighbours of one size pass together.

        Raises:
            UsageError: as `encode`, once it comes to such an image, or for a `batch_size` below 1.
        """
        require_series(images, "images")
        return self._encode_many(images, scales, passes, batch_size)

    def _encode_many(
        self, images: Iterable[ImageInput], scales: int | None, passes: int, batch_size: int
    ) -> Iterator[BitFile]:
        for made in self.attempt_many(images, scales=scales, passes=passes, batch_size=batch_size):
            if isinstance(made, UsageError):
                raise made
            yield made

    def attempt_many(
        self, images: Iterable[ImageInput], *, scales: int | None = None, passes: int = 0, batch_size: int = 1
    ) -> Iterator[BitFile | UsageError]:
        """As `encode_many`, but where an image can't be used, its error comes instead of bits, and the rest goes on.

        Raises:
            UsageError: for scales, passes or a `batch_size` that can't be.
        """
        require_count(batch_size, "images at a time", least=1)
        require_count(passes, "passes", least=0, most=MAX_PASSES)
        require_scales(scales)
        remaining = iter(images)
        while group := list(islice(remaining, batch_size)):
            read = [self._attempt(image) for image in group]
            for shape, alike in groupby(read, key=lambda one: one.pixels.shape if isinstance(one, _Read) else None):
                if shape is None:
                    yield from (one for one in alike if isinstance(one, UsageError))
                else:
                    yield from self._encode_group([one for one in alike if isinstance(one, _Read)], scales, passes)

    def _encode_group(self, alike: Sequence[_Read], scales: int | None, passes: int) -> Iterator[BitFile | UsageError]:
        """Images of one size."""
        pixels = np.stack([one.pixels for one in alike])
        header = self.header_for(pixels.shape[2], pixels.shape[1])
        if scales is not None and scales > len(header.grids):
            why = f"an image of {header.width}x{header.height} pixels has {len(header.grids)}"
            todo = f"choose 1 to {len(header.grids)}"
            yield from (UsageError(f"Can't take the first {scales} scales.", why, todo) for _ in alike)
            return
        _, _, steps = self.encode_alike(pixels, passes=passes, scales=scales)
        packed = [[pack(bits) for bits in step.bits] for step in steps]
        for one, payloads in zip(alike, zip(*packed, strict=True), strict=True):
            origin = None if one.sha256 is None else self.origin_of(one.sha256, scales=scales, passes=passes)
            yield BitFile(header, payloads, origin).first(scales)

    def origin_of(self, sha256: str, *, scales: int | None, passes: int) -> Origin:
        """What a bit file says of its making, of the image file with that digest."""
        precision = _PRECISIONS[self.tokenizer.dtype]
        return Origin(sha256, passes, aimed=scales or 0 if passes else 0, precision=precision)

    def decode(self, file: BitFile | bytes | str | Path, *, scales: int | None = None) -> Image.Image:
        """Bits to an RGB image of the size that was encoded; coarser when scales are missing.

        Args:
            file: a bit file, its content, or its path.
            scales: use the first ones only. Given, it is also taken for wanting a large image of few bits, which is
                refused otherwise.

        Raises:
            UsageError: for a file that is missing, damaged, foreign or newer, one that claims far more pixels than it
                has bits for (`PIXELS_A_BIT`), or as `BitFile.first`.
            WeightsError: if another tokenizer made it.
            ComputationError: if the tokenizer gives NaN or infinity.
        """
        return next(self.decode_many([file], scales=scales))

    def decode_many(
        self, files: Iterable[BitFile | bytes | str | Path], *, scales: int | None = None
    ) -> Iterator[Image.Image]:
        """Bits to images, in order, one at a time."""
        require_series(files, "bit files")
        require_scales(scales)
        return self._decode_many(files, scales)

    def _decode_many(self, files: Iterable[BitFile | bytes | str | Path], scales: int | None) -> Iterator[Image.Image]:
        for file in files:
            read = read_bitfile(file)
            if scales is None:
                require_worth(read, str(file) if isinstance(file, str | Path) else "The bit file")
            yield self._decode(read.first(scales))

    def encode_folder(
        self,
        folder: str | Path,
        output: str | Path,
        *,
        scales: int | None = None,
        passes: int = 0,
        batch_size: int = 1,
        overwrite: bool = False,
        progress: "Callable[[Done | Failed], None] | None" = None,
    ) -> "FolderCounts":
        """Write the bits of a folder's images, at any depth, to another folder; goes on where it was stopped.

        Args:
            folder: files of other kinds are left out, and counted.
            output: made if it isn't there. What this tokenizer made of these very images with these settings stays.
            scales, passes, batch_size: as for `encode_many`.
            overwrite: replace files that are no bit files too.
            progress: told of every file.

        Raises:
            UsageError: if there is no image, or two have one name; after all the others are written, if there were
                images that can't be used.
        """
        from bitvar.codec.folders import count, encode_files, pair_folder  # they are made of this class

        source, target = require_path(folder, "folder"), require_path(output, "output")
        pairs, skipped = pair_folder(source, target, ".bits", image_files)
        run = encode_files(self, pairs, scales=scales, passes=passes, batch_size=batch_size, overwrite=overwrite)
        return count(run, skipped, progress)

    def decode_folder(
        self,
        folder: str | Path,
        output: str | Path,
        *,
        scales: int | None = None,
        overwrite: bool = False,
        progress: "Callable[[Done | Failed], None] | None" = None,
    ) -> "FolderCounts":
        """Write the images of a folder's bit files, `.bits`, at any depth, to another folder as PNG.

        Args:
            folder: other files are left out, and counted.
            output: made if it isn't there. What this tokenizer made of these very bits stays.
            scales: as for `decode`.
            overwrite: replace images that weren't decoded from bits too.
            progress: told of every file.

        Raises:
            UsageError: if there is none; after all the others are written, if there were files that can't be decoded.
        """
        from bitvar.codec.folders import bit_files, count, decode_files, pair_folder

        source, target = require_path(folder, "folder"), require_path(output, "output")
        pairs, skipped = pair_folder(source, target, ".png", bit_files)
        return count(decode_files(self, pairs, scales=scales, overwrite=overwrite), skipped, progress)

    def header_for(self, width: int, height: int) -> BitHeader:
        """The header of a bit file of an image of that many pixels."""
        for name, side in (("pixels of width", width), ("pixels of height", height)):
            require_count(side, name, least=1, most=MAX_PIXELS)
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

    def encode_alike(
        self, images: UInt8[np.ndarray, "b H W c"], *, passes: int = 0, scales: int | None = None
    ) -> Encoding:
        """RGB images of one size, of 0..255, to the bits of every scale and how they came about.

        Args:
            images: one or more.
            passes: as for `encode`.
            scales: what comes back in a pass is decoded from the first ones only.

        Raises:
            UsageError: for arrays of another kind.
            ComputationError: if the tokenizer gives NaN or infinity.
        """
        require_pixels(images, self.limits)
        encoding = self._encode(self.header_for(images.shape[2], images.shape[1]), images)
        if not passes:
            return encoding
        last = len(encoding.steps) - 1 if scales is None else min(max(scales, 1), len(encoding.steps)) - 1
        return self._closer(encoding, images, passes, last)

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
                features = self.tokenizer.features(to_signed(_to_planes(padded).to(self.tokenizer.device)))
            return Encoding(header, features, list(self.tokenizer.encode_scales(features, header.grids)))

    def _closer(self, best: Encoding, images: UInt8[np.ndarray, "b H W c"], passes: int, last: int) -> Encoding:
        """The best encoding of some passes on, by what scales up to `last` give back; `best` if none is better."""
        originals = _to_planes(images)
        offered, missing = originals, originals - _to_planes(self.draw(best.steps[last].latent, best.header))
        least = seen_error(missing)
        for number in range(passes):
            offered = offered + correction(missing, number)
            new = self._encode(best.header, offered.permute(0, 2, 3, 1).numpy())
            missing = originals - _to_planes(self.draw(new.steps[last].latent, best.header))
            error = seen_error(missing)
            best = best.replaced((error < least).to(new.features.device), new)
            del new  # large images: one encoding at a time beside the best
            least = torch.minimum(error, least)
        return best

    def draw(self, latent: Float[Tensor, "b d h w"], header: BitHeader) -> UInt8[np.ndarray, "b H W c"]:
        """A latent, of all scales or of the first ones, to images of 0..255 of the size that `header` has."""
        rows, columns = (side * header.stride for side in header.grids[-1])
        with torch.inference_mode():
            if rows * columns <= self.tile**2:
                images = _to_array(self.tokenizer.decode(latent))
            else:
                images = np.empty((len(latent), rows, columns, header.channels), np.uint8)
                for image, one in zip(images, latent.split(1), strict=True):
                    for tile_rows, tile_columns, pixels in tiled_pixels(self.tokenizer, one, tile=self.tile):
                        image[tile_rows, tile_columns] = _to_array(pixels)[0]
        return np.ascontiguousarray(images[:, : header.height, : header.width])

    def _attempt(self, image: ImageInput) -> _Read | UsageError:
        try:
            return self._read(image)
        except UsageError as error:
            return error

    def _read(self, image: ImageInput) -> _Read:
        """Pixels, refused by size before any is decoded."""
        if not isinstance(image, Image.Image):
            image = require_path(image, "image")
        name = f"The image {image}" if isinstance(image, Path) else "The image"
        try:
            if isinstance(image, Image.Image):
                check_image(image, self.limits)
                return _Read(np.asarray(as_rgb(image)), None)
            data = Location(image).read(max_bytes=self.limits.max_bytes)
            return _Read(np.asarray(decode_image(data, self.limits)), hashlib.sha256(data).hexdigest())
        except RefusedError as error:
            todo = f"convert or resize it: {READ}, of at most 50 megapixels"
            raise UsageError(f"{name} can't be used.", str(error), todo) from None

    def _tiled_features(
        self, image: UInt8[np.ndarray, "H W c"] | Float32[np.ndarray, "H W c"]
    ) -> Float[Tensor, "1 d h w"]:
        def cut(rows: slice, columns: slice) -> Float[Tensor, "1 c H2 W2"]:
            return to_signed(_to_planes(image[None, rows, columns]))

        return tiled_features(self.tokenizer, cut, (image.shape[0], image.shape[1]), tile=self.tile)

    def _decode(self, file: BitFile) -> Image.Image:
        header = file.header
        self._require_own(header)
        bits = [
            unpack(payload, header.bits, grid)[None].to(self.tokenizer.device)
            for payload, grid in zip(file.payloads, header.grids, strict=False)
        ]
        return Image.fromarray(self.draw(self.tokenizer.decode_latent(bits, header.grids), header)[0])

    def _require_own(self, header: BitHeader) -> None:
        config = self.tokenizer.config
        found = (header.sha256, header.bits, header.stride, header.channels)
        if found != (self.identity.bits_sha256, config.bits, config.stride, config.image_channels):
            made, here = f"{header.tokenizer!r} (sha256 {header.sha256})", f"{self.identity.name!r}"
            raise WeightsError(
                f"The tokenizer {here} did not make these bits.",
                f"they are of {made}, this one is sha256 {self.identity.bits_sha256}",
                f"decode them with {header.tokenizer.removesuffix('-tokenizer')!r}",
            )


def read_bitfile(file: BitFile | bytes | str | Path) -> BitFile:
    """A bit file from its content or its path.

    Raises:
        UsageError: for one that is missing, damaged, foreign or newer.
    """
    if isinstance(file, BitFile):
        return file
    if isinstance(file, bytes | bytearray | memoryview):
        return BitFile.from_bytes(bytes(file))
    path = require_path(file, "bit file")
    try:
        data = Location(path).read(max_bytes=MAX_FILE_BYTES)
    except RefusedError as error:
        raise UsageError(f"Can't read {path}.", error.detail, "give a bit file") from None
    return BitFile.from_bytes(data, source=str(path))


def image_files(folder: Path) -> tuple[list[Path], Skipped]:
    """The images of a folder, at any depth, in the order of their names, and what else it has."""
    return list_files(folder, IMAGE_SUFFIXES)


def require_worth(file: BitFile, name: str) -> None:
    """Refuse a large image of hardly any bits: a hundred bytes could claim minutes of work."""
    pixels = file.header.width * file.header.height
    if pixels <= max(SMALL, PIXELS_A_BIT * file.num_bits):
        return
    there = f"scales 1 to {len(file.payloads)} of {len(file.header.grids)}, {file.num_bits:,} bits"
    raise UsageError(
        f"{name} claims {file.header.width}x{file.header.height} pixels, and has next to nothing of them.",
        f"it has {there}; up to {PIXELS_A_BIT:,} pixels a bit are drawn without asking",
        f"to draw it all the same, name its scales: --scales {len(file.payloads)} (in Python scales=)",
    )


def _to_planes(images: UInt8[np.ndarray, "b H W c"] | Float32[np.ndarray, "b H W c"]) -> Float[Tensor, "b c H W"]:
    """As they are, in floats."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


def _to_array(pixels: Float[Tensor, "b c H W"]) -> UInt8[np.ndarray, "b H W c"]:
    return to_uint8(pixels).permute(0, 2, 3, 1).cpu().numpy()
