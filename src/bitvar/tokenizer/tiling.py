"""Tiled encoding and decoding of large images, in a fraction of the memory and with the same result up to rounding.

The tokenizer is local except for its group norms. It therefore runs stage by stage (one stage per resolution), and each
stage tile by tile: one pass for each norm, to gather its statistics over the whole image, and a last pass for the
output.

    image -> [stage 1: tiles] -> activations -> [stage 2: tiles] -> ... -> features

    +-----------------+   The stage reads the outer rectangle, a tile with a margin as wide as the stage's receptive
    |   +---------+   |   field reaches, and keeps the inner one. Tiles need no blending: their pixels are the ones that
    |   |  tile   |   |   a single pass would give. Complete activations exist only between stages, where they are
    |   +---------+   |   smallest.
    +-----------------+
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.errors import UsageError
from bitvar.finite import require_finite
from bitvar.nn.linear import Conv2d
from bitvar.nn.norms import EPSILON, GroupNorm
from bitvar.scales import Grid
from bitvar.tokenizer.autoencoder import Decoder, Encoder, Level
from bitvar.tokenizer.config import TokenizerConfig

Crop = Callable[[slice, slice], Float[Tensor, "1 c H W"]]
"""(rows, columns) -> that part of a larger array. For an image, pixels in [-1, 1]."""


class Tile(NamedTuple):
    """One tile, without and with its margin, in rows and columns of the stage's input."""

    rows: slice
    columns: slice
    wide_rows: slice
    wide_columns: slice

    def inner(self, wide: Tensor) -> Tensor:
        """Cut the margin off an output computed from the wide tile, at any resolution."""
        rows = _inside(self.rows, self.wide_rows, wide.shape[-2])
        return wide[..., rows, _inside(self.columns, self.wide_columns, wide.shape[-1])]


class _Gathered(Exception):  # noqa: N818 - no error: it ends a pass early
    """Raised by a norm that has gathered one tile's statistics and needs those of the other tiles to continue."""


class WholeNorm(nn.Module):
    """A group norm over a whole image that arrives in tiles: it first gathers statistics, then normalises."""

    def __init__(self, norm: GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.count = 0
        self.mean = torch.zeros(norm.groups, dtype=torch.float64)
        self.squares = torch.zeros(norm.groups, dtype=torch.float64)
        self.affine: tuple[Tensor, Tensor] | None = None
        self.tile: Tile | None = None

    def forward(self, x: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c h w"]:
        if self.affine is None:
            assert self.tile is not None
            self._gather(self.tile.inner(x))
            raise _Gathered
        scale, shift = self.affine
        return torch.addcmul(shift, x.float(), scale).to(x.dtype)

    def _gather(self, x: Float[Tensor, "1 c h w"]) -> None:
        """Merge the statistics of a tile into those of the image (Chan et al. 1979)."""
        grouped = x.float().reshape(self.norm.groups, -1)
        variance, mean = (value.cpu().double() for value in torch.var_mean(grouped, dim=1, correction=0))
        count = grouped.shape[1]
        total, delta = self.count + count, mean - self.mean
        self.squares += variance * count + delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    def settle(self) -> None:
        """Fix the statistics once every tile has been seen; from then on the norm normalises."""
        weight, bias = self.norm.weight.float(), self.norm.bias.float()
        per_group = len(weight) // self.norm.groups
        mean, squares = (value.repeat_interleave(per_group) for value in (self.mean, self.squares))
        scale = weight * (squares / self.count + EPSILON).rsqrt().float().to(weight.device)
        shift = bias - mean.float().to(weight.device) * scale
        self.affine = scale[:, None, None], shift[:, None, None]


class Stage:
    """A part of the network that runs tile by tile. It shares the parameters of the given modules and changes none.

    Args:
        modules: Modules to run, one after the other.
        factor: Ratio of the output's sides to the input's: 1/2, 1 or 2.
    """

    def __init__(self, modules: Sequence[nn.Module], *, factor: float) -> None:
        plain = nn.Sequential(*modules)
        self.module = copy.deepcopy(plain, {id(parameter): parameter for parameter in plain.parameters()})
        self.factor = factor
        self.norms: list[WholeNorm] = []
        for parent in list(self.module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, GroupNorm):
                    whole = WholeNorm(child)
                    setattr(parent, name, whole)
                    self.norms.append(whole)
        reach = sum(isinstance(child, Conv2d) and child.weight.shape[-1] > 1 for child in self.module.modules())
        self.margin = 2 * -(-(reach + 1) // 2)  # a convolution of stride 2 reaches one further; even, to stay aligned

    def run(self, crop: Crop, size: Grid, side: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield the output tile by tile, each with its rows and columns.

        Args:
            crop: Function that reads a part of the input.
            size: Rows and columns of the input.
            side: Side of a tile without its margins, in rows of the input.
        """
        tiles = _tiles(size, max(2, side // 2 * 2), self.margin)
        for _ in self.norms:  # each pass reaches the first norm without statistics
            for tile in tiles:
                self._gather(crop(tile.wide_rows, tile.wide_columns), tile)
            next(norm for norm in self.norms if norm.affine is None and norm.count).settle()
        for tile in tiles:
            out = tile.inner(self.module(crop(tile.wide_rows, tile.wide_columns)))
            yield self._scaled(tile.rows), self._scaled(tile.columns), out

    def whole(self, crop: Crop, size: Grid, side: int) -> Float[Tensor, "1 c h w"]:
        """Compute the complete output; arguments as for `run`."""
        output: Tensor | None = None
        for rows, columns, out in self.run(crop, size, side):
            if output is None:
                output = out.new_empty(1, out.shape[1], *(int(length * self.factor) for length in size))
            output[..., rows, columns] = out
        assert output is not None
        return output

    def _gather(self, x: Tensor, tile: Tile) -> None:
        for norm in self.norms:
            norm.tile = tile
        try:
            self.module(x)
        except _Gathered:
            return
        raise AssertionError("every norm has its statistics")

    def _scaled(self, part: slice) -> slice:
        return slice(int(part.start * self.factor), int(part.stop * self.factor))


def require_tile(tile: object) -> None:
    """Require the side of a tile to be a positive integer.

    Raises:
        UsageError: for any other value.
    """
    if not isinstance(tile, int) or isinstance(tile, bool) or tile < 1:
        why = "a tile is the side of a square in pixels, a whole number above 0"
        raise UsageError(f"Can't process images in tiles of {tile!r:.60}.", why, "give a tile such as 1024")


def tiled_features(
    encoder: Encoder, config: TokenizerConfig, crop: Crop, size: Grid, *, tile: int
) -> Float[Tensor, "1 d h w"]:
    """Compute `InfinityTokenizer.features` of one large image.

    Args:
        encoder: Encoder of the tokenizer.
        config: Sizes of the tokenizer.
        crop: Function that reads a part of the image.
        size: Rows and columns of the image in pixels, multiples of the stride.
        tile: Side of a tile in pixels, without margins.
    """
    require_tile(tile)
    patch, stride = config.pixel_patch, config.stride
    device, dtype = encoder.conv_in.weight.device, encoder.conv_in.weight.dtype
    cells, cells_a_tile = (size[0] // stride, size[1] // stride), max(1, tile // stride)
    levels = [level for level in encoder.levels if isinstance(level, Level)]
    parts: list[list[nn.Module]] = [[level.blocks, level.resize] for level in levels]
    parts[0].insert(0, encoder.conv_in)
    parts[-1] += [encoder.middle, encoder.norm_out, nn.SiLU(), encoder.conv_out]
    features: Tensor | None = None

    def read(rows: slice, columns: slice) -> Tensor:
        if features is not None:
            return features[..., rows, columns].to(device, dtype)
        pixels = crop(_times(rows, patch), _times(columns, patch))
        return F.pixel_unshuffle(pixels, patch).to(device, dtype)

    size, tile = (size[0] // patch, size[1] // patch), tile // patch
    for level, part in enumerate(parts):
        stage = Stage(part, factor=0.5 if level < len(parts) - 1 else 1)
        features = stage.whole(read, size, tile)
        size, tile = (features.shape[-2], features.shape[-1]), int(tile * stage.factor)
    assert features is not None
    if encoder.skip is not None:
        for part in _tiles(cells, cells_a_tile, margin=0):
            pixels = crop(_times(part.rows, stride), _times(part.columns, stride))
            skipped = encoder.skip(F.pixel_unshuffle(pixels.to(device, dtype), stride))
            features[..., part.rows, part.columns] += skipped
    require_finite(features, "the tokenizer's features")
    return features.float()


def tiled_pixels(
    decoder: Decoder, config: TokenizerConfig, latent: Float[Tensor, "1 d h w"], *, tile: int
) -> Iterator[tuple[slice, slice, Float[Tensor, "1 c _ _"]]]:
    """Compute `InfinityTokenizer.decode` of one large latent, one tile at a time.

    Args:
        decoder: Decoder of the tokenizer.
        config: Sizes of the tokenizer.
        latent: Latent of all scales, or of the first scales only.
        tile: Side of a tile in pixels, without margins.

    Yields:
        Rows and columns of pixels, and the pixels there, fp32 in [-1, 1].
    """
    require_tile(tile)
    stride, patch = config.stride, config.pixel_patch
    levels = [level for level in decoder.levels if isinstance(level, Level)]
    parts: list[list[nn.Module]] = [[decoder.conv_in, decoder.middle, levels[0].blocks]]
    parts += [[before.resize, after.blocks] for before, after in pairwise(levels)]
    parts[-1] += [decoder.norm_out, nn.SiLU(), decoder.conv_out]
    whole, side = latent.to(decoder.conv_in.weight.dtype), max(2, tile // stride)
    for level, part in enumerate(parts):
        stage = Stage(part, factor=2 if level else 1)
        size = (whole.shape[-2], whole.shape[-1])
        if level == len(parts) - 1:
            for patch_rows, patch_columns, patches in stage.run(_reader(whole), size, side):
                rows, columns = _times(patch_rows, patch), _times(patch_columns, patch)
                pixels = F.pixel_shuffle(patches, patch)
                if decoder.skip is not None:
                    pixels = pixels + _skipped_pixels(decoder.skip, latent, rows, columns, stride)
                require_finite(pixels, "the pixels that the tokenizer decoded")
                yield rows, columns, pixels.float().clamp(-1, 1)
        else:
            whole, side = stage.whole(_reader(whole), size, side), int(side * stage.factor)


def _skipped_pixels(skip: Conv2d, latent: Tensor, rows: slice, columns: slice, stride: int) -> Float[Tensor, "1 c H W"]:
    """Compute what a decoder's skip adds to a range of pixels, which may begin and end within a cell."""
    spans = [slice(part.start // stride, -(-part.stop // stride)) for part in (rows, columns)]
    wide = F.pixel_shuffle(skip(latent[..., spans[0], spans[1]].to(skip.weight.dtype)), stride)
    top, left = rows.start - spans[0].start * stride, columns.start - spans[1].start * stride
    return wide[..., top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]


def _reader(whole: Float[Tensor, "1 c h w"]) -> Crop:
    return lambda rows, columns: whole[..., rows, columns]


def _times(part: slice, factor: int) -> slice:
    return slice(part.start * factor, part.stop * factor)


def _tiles(size: Grid, side: int, margin: int) -> list[Tile]:
    def spans(length: int) -> list[tuple[slice, slice]]:
        parts = [slice(start, min(start + side, length)) for start in range(0, length, side)]
        return [(part, slice(max(0, part.start - margin), min(length, part.stop + margin))) for part in parts]

    return [
        Tile(rows, columns, wide_rows, wide_columns)
        for rows, wide_rows in spans(size[0])
        for columns, wide_columns in spans(size[1])
    ]


def _inside(part: slice, wide: slice, length: int) -> slice:
    """Locate a part of the range `wide` in an array of `length` that covers that range."""
    scale = length / (wide.stop - wide.start)
    return slice(round((part.start - wide.start) * scale), round((part.stop - wide.start) * scale))
