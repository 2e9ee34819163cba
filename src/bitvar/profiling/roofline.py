"""Attainable rates: how fast this machine's kernels are by themselves, at the shapes that a model uses.

The rate that a stage achieves is its operations by arithmetic over its measured time. The attainable rate is the same
operations over the sum of what its matrix products, attentions and convolutions take alone, each by the fastest kernel
known for it. A stage near its attainable rate gets faster only by doing fewer operations.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitvar.costs.flops import forward_flops
from bitvar.nn.attention import attend
from bitvar.nn.linear import Conv2d
from bitvar.profiling.clock import Clock
from bitvar.scales import Grid, ScaleSchedule
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.transformer import TransformerConfig

REPEATS = 5
MAX_SECONDS = 0.5
"""Seconds after which a kernel is not repeated any more."""

Call = Callable[[], Tensor]


class Kernel(ABC):
    """One call of a matrix product, an attention or a convolution: its sizes and its precision."""

    @property
    @abstractmethod
    def flops(self) -> float:
        """Floating-point operations; a multiply-add counts as two."""

    @abstractmethod
    def calls(self, device: torch.device) -> Iterator[Call]:
        """Yield every known way to compute it, on random inputs."""

    def fastest_seconds(self, device: torch.device) -> float:
        """Measure the fastest of several calls of the fastest way."""
        return min(_fastest(call, device) for call in self.calls(device))


@dataclass(frozen=True)
class MatrixProduct(Kernel):
    """A linear layer: `rows` batch rows of `tokens` tokens, from `inputs` to `outputs` channels."""

    rows: int
    tokens: int
    inputs: int
    outputs: int
    dtype: torch.dtype

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.tokens * self.inputs * self.outputs

    def calls(self, device: torch.device) -> Iterator[Call]:
        x = torch.randn(self.rows, self.tokens, self.inputs, device=device).to(self.dtype)
        weight = torch.randn(self.outputs, self.inputs, device=device).to(self.dtype)
        bias = torch.randn(self.outputs, device=device).to(self.dtype)
        yield lambda: F.linear(x, weight, bias)
        if device.type != "cpu":
            return
        pixels, kernel = x.transpose(1, 2)[..., None], weight[:, :, None, None]
        yield lambda: F.conv2d(pixels, kernel, bias)
        if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            operations = torch.ops.mkldnn
            packed = operations._reorder_linear_weight(weight, self.rows * self.tokens)
            yield lambda: operations._linear_pointwise(x, packed, bias, "none", [], "")


@dataclass(frozen=True)
class Attention(Kernel):
    """Attention of `queries` tokens to `keys` tokens in `heads` heads."""

    rows: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    dtype: torch.dtype

    @property
    def flops(self) -> float:
        return 4.0 * self.rows * self.heads * self.queries * self.keys * self.head_dim

    def calls(self, device: torch.device) -> Iterator[Call]:
        lengths = (self.queries, self.keys, self.keys)
        shapes = [(self.rows, self.heads, length, self.head_dim) for length in lengths]
        q, k, v = (torch.randn(shape, device=device).to(self.dtype) for shape in shapes)
        yield lambda: attend(q, k, v, scale=1.0)


@dataclass(frozen=True)
class Convolution(Kernel):
    """A "same" convolution of `images` images of `height` x `width` cells."""

    images: int
    inputs: int
    outputs: int
    kernel: int
    height: int
    width: int
    dtype: torch.dtype

    @property
    def flops(self) -> float:
        return 2.0 * self.images * self.inputs * self.outputs * self.kernel**2 * self.height * self.width

    def calls(self, device: torch.device) -> Iterator[Call]:
        x = torch.randn(self.images, self.inputs, self.height, self.width, device=device).to(self.dtype)
        weight = torch.randn(self.outputs, self.inputs, self.kernel, self.kernel, device=device).to(self.dtype)
        bias, padding = torch.randn(self.outputs, device=device).to(self.dtype), self.kernel // 2
        yield lambda: F.conv2d(x, weight, bias, padding=padding)
        across, inner = (t.to(memory_format=torch.channels_last) for t in (x, weight))
        yield lambda: F.conv2d(across, inner, bias, padding=padding)


@torch.inference_mode()
def _fastest(call: Call, device: torch.device) -> float:
    call()
    clock, fastest, spent = Clock(device), math.inf, 0.0
    for _ in range(REPEATS):
        clock.lap()
        call()
        seconds = clock.lap()
        fastest, spent = min(fastest, seconds), spent + seconds
        if spent > MAX_SECONDS:
            break
    return fastest


def scale_kernels(
    config: TransformerConfig, schedule: ScaleSchedule, k: int, *, rows: int, text_tokens: int, dtype: torch.dtype
) -> Counter[Kernel]:
    """Count the kernels of one scale's blocks and head, and of its embedding from the second scale on.

    Args:
        config: Configuration of the transformer.
        schedule: Schedule that is decoded.
        k: Index of the scale.
        rows: Rows that are computed together.
        text_tokens: Length of the prompt in tokens.
        dtype: Precision of the blocks; the head always computes in fp32.
    """
    width, ffn, depth = config.width, config.ffn_width, config.depth
    tokens, keys = schedule.lengths[k], schedule.offsets[k + 1]

    def product(inputs: int, outputs: int, precision: torch.dtype = dtype) -> Kernel:
        return MatrixProduct(rows, tokens, inputs, outputs, precision)

    counts: Counter[Kernel] = Counter()
    counts[product(width, 3 * width)] += depth
    counts[product(width, width)] += 3 * depth
    counts[product(width, ffn)] += depth
    counts[product(ffn, width)] += depth
    for length in (keys, text_tokens):
        counts[Attention(rows, config.num_heads, tokens, length, config.head_dim, dtype)] += depth
    counts[product(width, 2 * config.bits, torch.float32)] += 1
    if k > 0:
        counts[product(config.bits, width)] += 1
    return counts


def decoder_kernels(config: TokenizerConfig, grid: Grid, *, images: int, dtype: torch.dtype) -> Counter[Kernel]:
    """Count the convolutions that decode a latent, found by running the decoder without any data.

    Args:
        config: Configuration of the image tokenizer.
        grid: Rows and columns of the latent's cells.
        images: Images that are decoded together.
        dtype: Precision of the decoder.
    """
    counts: Counter[Kernel] = Counter()

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(module, Conv2d)
        outputs, channels, kernel, _ = module.weight.shape
        height, width = output.shape[-2:]
        counts[Convolution(images, channels, outputs, kernel, height, width, dtype)] += 1

    with torch.device("meta"), torch.inference_mode():
        decoder = InfinityTokenizer(config).decoder
        for module in decoder.modules():
            if isinstance(module, Conv2d):
                module.register_forward_hook(note)
        decoder(torch.empty(images, config.bits, *grid))
    return counts


def total_flops(kernels: Mapping[Kernel, int]) -> float:
    """Add up the operations of counted kernels."""
    return sum(kernel.flops * count for kernel, count in kernels.items())


def scale_flops(config: TransformerConfig, schedule: ScaleSchedule, k: int, *, text_tokens: int) -> float:
    """Return the operations of one row at one scale; the first scale has those of the text too.

    Args:
        config: Configuration of the transformer.
        schedule: Schedule that is decoded.
        k: Index of the scale.
        text_tokens: Length of the prompt in tokens.
    """
    so_far = [forward_flops(config, schedule.first(n), text_tokens=text_tokens).total for n in range(max(k, 1), k + 2)]
    return so_far[-1] - so_far[0] if k > 0 else so_far[0]
