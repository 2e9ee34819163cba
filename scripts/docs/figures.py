"""Draw the figures of docs/explained.md with the package itself.

python scripts/docs/figures.py docs/images

Needs the extra `report`. Everything is fixed: the image is the embedded model's for one prompt and seed, flips have a
seed of their own, and the tokenizer is the embedded model's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from PIL import Image
from torch import Tensor

from bitvar import InfinityPipeline, pyramid
from bitvar.files import atomic_path
from bitvar.imaging.pixels import to_signed, to_uint8
from bitvar.metrics.distances import psnr
from bitvar.official_schedules import official_schedule
from bitvar.scales import ScaleSchedule, code_norms_of
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training.transformer.self_correction import random_flip

PROMPT: Final = "a red apple on a green background, 3D emoji"
SEED: Final = 1
FLIPPED_SCALES: Final = 2
STRENGTH: Final = 0.3
BLUE: Final = "#2a5db0"
ORANGE: Final = "#b04a00"
GREY: Final = "#d8dce3"
DPI: Final = 110


class Example:
    """The image of all figures, and its pyramid.

    Attributes:
        image: Pixels in [-1, 1], of shape `(1, 3, 64, 64)`.
        schedule: Grids of the transformer's tokens.
        grids: The same in cells of the tokenizer.
        steps: Residual, bits and latent of each scale.
    """

    def __init__(self, pipe: InfinityPipeline) -> None:
        assert isinstance(pipe.tokenizer, InfinityTokenizer)
        self.tokenizer = pipe.tokenizer
        drawn = pipe(PROMPT, seed=SEED).images[0]
        pixels = torch.from_numpy(np.asarray(drawn).copy()).permute(2, 0, 1)[None]
        self.image = to_signed(pixels)
        self.schedule: ScaleSchedule = pipe.transformer.config.all_schedules()[0]
        self.grids = self.schedule.latent_grids(pipe.transformer.config.patch_size)
        self.norms = code_norms_of(self.tokenizer.config.code_norms, len(self.grids))
        self.features = self.tokenizer.features(self.image)
        self.steps = list(self.tokenizer.encode_scales(self.features, self.grids))

    def decode(self, latent: Tensor) -> np.ndarray:
        """Decode a latent to an array of bytes."""
        return to_uint8(self.tokenizer.decode(latent))[0].permute(1, 2, 0).numpy()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw the figures of docs/explained.md.")
    parser.add_argument("out", type=Path, help="folder")
    folder = parser.parse_args().out
    mpl.use("Agg")
    plt.rcParams |= {"font.size": 11, "axes.titlesize": 11, "savefig.facecolor": "white"}
    with torch.inference_mode():
        example = Example(InfinityPipeline.from_pretrained(dtype="fp32", device="cpu"))
        save(draw_pyramid(example), folder / "explained-pyramid.png")
        save(draw_bits(example), folder / "explained-bits.png")
        save(draw_self_correction(example), folder / "explained-self-correction.png")
        save(draw_mask(example.schedule), folder / "explained-mask.png")
        save(draw_schedule(), folder / "explained-schedule.png")


def save(figure: Any, path: Path) -> None:
    """Write a figure with few colours and without the time, so that equal figures are equal files."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    plt.close(figure)
    with atomic_path(path) as partial:
        Image.fromarray(np.ascontiguousarray(pixels)).quantize(256, dither=Image.Dither.NONE).save(
            partial, format="PNG", optimize=True
        )


def panel(axes: Axes, pixels: Any, title: str, below: str = "", **options: Any) -> None:
    """Show an image without axes."""
    axes.imshow(pixels, interpolation="nearest", **options)
    axes.set_title(title)
    axes.set_xlabel(below)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_pyramid(example: Example) -> Any:
    """Show what is left, what each scale adds, and the image after it."""
    count = len(example.steps)
    figure, axes = plt.subplots(3, count, figsize=(2.15 * count + 1.1, 7.2), dpi=DPI, layout="constrained")
    before = torch.zeros_like(example.features)
    for k, (step, grid) in enumerate(zip(example.steps, example.grids, strict=True)):
        residual = step.residual[0].norm(dim=0).numpy()
        share = float((example.features - step.latent).norm() / example.features.norm())
        panel(axes[0, k], residual, f"scale {k + 1}: {grid[0]} x {grid[1]} cells", cmap="Blues", vmin=0, vmax=4)
        panel(axes[1, k], shades((step.latent - before)[0]), f"adds {step.bits.numel():,} bits")
        after = example.decode(step.latent)
        panel(axes[2, k], after, f"after {k + 1} of {count}", f"{share:.0%} of the features left")
        before = step.latent
    labels = (
        "what is missing\n(norm in each cell)",
        "what the codes add\n(3 of 16 channels)",
        "the latent so far,\ndecoded",
    )
    for row, label in enumerate(labels):
        axes[row, 0].set_ylabel(label)
    return figure


def shades(codes: Tensor) -> np.ndarray:
    """Show the first three channels of codes as red, green and blue, with grey for zero."""
    shown = codes[:3] / codes[:3].abs().max()
    return (shown * 0.32 + 0.55).clamp(0, 1).permute(1, 2, 0).numpy()


def draw_bits(example: Example) -> Any:
    """Show every bit of the image: a small map for each of the 16 bits, at each scale."""
    count = len(example.steps)
    options = {"dpi": DPI, "layout": "constrained", "gridspec_kw": {"wspace": 0.09}}
    figure, axes = plt.subplots(1, count, figsize=(10, 3.2), **options)
    colours = ListedColormap(["#f4f6fa", BLUE, "#ffffff"])
    for k, step in enumerate(example.steps):
        bits = step.bits[0].numpy()
        rows, columns = bits.shape[1:]
        gap = max(1, rows // 8)
        sheet = np.full((4 * (rows + gap) - gap, 4 * (columns + gap) - gap), 2)
        for index, plane in enumerate(bits):
            top, left = (index // 4) * (rows + gap), (index % 4) * (columns + gap)
            sheet[top : top + rows, left : left + columns] = plane
        ones = bits.mean()
        below = f"{bits.size:,} bits, {ones:.0%} of them 1"
        panel(axes[k], sheet, f"scale {k + 1}: {rows} x {columns} cells", below, cmap=colours, vmin=0, vmax=2)
        axes[k].set_frame_on(False)
    return figure


def draw_self_correction(example: Example) -> Any:
    """Flip bits of the coarse scales, and decode with the old finer bits and with requantised ones."""
    generators = [torch.Generator().manual_seed(5)]
    chosen = random_flip(max_strength=STRENGTH, num_corrected_scales=FLIPPED_SCALES, generators=generators)
    flips: list[Tensor] = []

    def flip(k: int, bits: Tensor) -> Tensor:
        flipped = chosen(k, bits)
        flips.append(flipped ^ bits)
        return flipped

    corrected = list(pyramid.encode(example.features, example.grids, example.norms, flip=flip))
    kept = [step.bits ^ flipped for step, flipped in zip(example.steps, flips, strict=True)]
    uncorrected = pyramid.decode_latent(kept, example.grids[-1], example.norms)
    coarse = FLIPPED_SCALES
    number = sum(int(flipped.sum()) for flipped in flips)
    panels = (
        ("no flips", example.steps[-1].latent),
        (f"{number} bits of scales 1 and 2\nflipped, decoded to there", corrected[coarse - 1].latent),
        ("finer scales as they were:\nthe mistake stays", uncorrected),
        ("finer scales quantised again:\nthey repair it", corrected[-1].latent),
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 3.3), dpi=DPI, layout="constrained")
    for place, (title, latent) in zip(axes, panels, strict=True):
        value = float(psnr(example.image, example.tokenizer.decode(latent)).mean())
        panel(place, example.decode(latent), title, f"{value:.1f} dB")
    return figure


def draw_mask(schedule: ScaleSchedule) -> Any:
    """Show which tokens may see which."""
    scale_of = np.repeat(np.arange(len(schedule.grids)), [rows * columns for rows, columns in schedule.grids])
    figure, axes = plt.subplots(figsize=(6.2, 5.6), dpi=DPI, layout="constrained")
    allowed = scale_of[:, None] >= scale_of[None, :]
    shown = np.where(allowed, np.where(scale_of[:, None] == scale_of[None, :], 2, 1), 0)
    axes.imshow(shown, cmap=ListedColormap(["#ffffff", "#a9c1e8", BLUE]), vmin=0, vmax=2, interpolation="nearest")
    ends = np.cumsum(np.bincount(scale_of))
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="black", linewidth=0.6)
        axes.axvline(end - 0.5, color="black", linewidth=0.6)
    middles = ends - np.bincount(scale_of) / 2 - 0.5
    names = [f"{rows} x {columns}" for rows, columns in schedule.grids]
    axes.set_yticks(middles[1:], names[1:])
    axes.set_xticks(middles[2:], names[2:])
    axes.set_ylabel("the token that looks, by scale")
    axes.set_xlabel("the token that is seen (first: 1 x 1, then 2 x 2)")
    for value, label in ((2, "own scale"), (1, "coarser scales")):
        axes.scatter([], [], marker="s", s=80, color=("", "#a9c1e8", BLUE)[value], label=label)
    axes.scatter([], [], marker="s", s=80, facecolor="white", edgecolor="black", label="hidden: finer scales")
    axes.legend(loc="upper right", frameon=True)
    return figure


def draw_schedule() -> Any:
    """Show the grids of a square megapixel, and the tokens of each."""
    schedule = official_schedule("1.0", "1M")
    tokens = [rows * columns for rows, columns in schedule.grids]
    figure, axes = plt.subplots(figsize=(10, 3.8), dpi=DPI, layout="constrained")
    names = [f"{rows}x{columns}" for rows, columns in schedule.grids]
    bars = axes.bar(names, tokens, color=[BLUE] * (len(tokens) - 1) + [ORANGE])
    axes.bar_label(bars, labels=_labels(tokens), fontsize=9)
    axes.set_xlabel("grid of the scale, in tokens")
    axes.set_ylabel("tokens")
    axes.set_ylim(0, max(tokens) * 1.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"1024 x 1024 pixels: {len(tokens)} steps for {sum(tokens):,} tokens of 32 bits")
    return figure


def _labels(tokens: Sequence[int]) -> list[str]:
    total = sum(tokens)
    return [f"{count:,}\n" + (f"{count / total:.1%}" if count * 1000 > total else "< 0.1%") for count in tokens]


if __name__ == "__main__":
    main()
