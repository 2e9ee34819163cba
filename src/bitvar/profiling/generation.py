"""The speed of generation: `InfinityPipeline.stream` timed stage by stage, as users call it."""

import copy
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn

from bitvar.config import unknown
from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline
from bitvar.profiling.clock import Clock, peak_memory
from bitvar.runtime.placement import resolve_device, resolve_dtype
from bitvar.runtime.threads import num_processors
from bitvar.sampling.params import PerScale, SamplingParams
from bitvar.text import TextEncoder
from bitvar.text.prompt_tokenizer import PromptTokenizer
from bitvar.tokenizer import TOKENIZER_PRESETS, InfinityTokenizer
from bitvar.transformer import PRESETS, InfinityTransformer
from bitvar.weights.identity import TokenizerIdentity
from bitvar.weights.index import ModelIndex
from bitvar.weights.model_folder import Components

RANDOM_TEXT_TOKENS = 20

MOST_THREADS = 4
"""Most threads a processor. More of them make a machine unusable for minutes."""


@dataclass(frozen=True)
class RunTimings:
    """Seconds that the stages of one call took.

    Attributes:
        text: Encoding of the prompts.
        scales: Each scale of the transformer, coarse to fine.
        decode: Decoding of the last scale to pixels.
    """

    text: float
    scales: tuple[float, ...]
    decode: float

    def named(self) -> dict[str, float]:
        """Return the seconds by the names that a report gives them."""
        scales = {f"scale_{k + 1}_s": seconds for k, seconds in enumerate(self.scales)}
        sums = {"decode_s": self.decode, "total_s": self.text + sum(self.scales) + self.decode}
        return {"text_s": self.text, **scales, "scales_s": sum(self.scales), **sums}


@dataclass(frozen=True)
class GenerationSetting:
    """What to time, and how it is computed. The defaults are those of `bitvar bench generate`.

    Attributes:
        model: Model folder or hub id; None for the embedded model.
        preset: Name of a transformer preset to build with random weights, in place of a model; None for a model.
        tokenizer: Name of the tokenizer preset that goes with `preset`.
        dtype: Precision of the weights, as for a pipeline.
        device: Device, as for a pipeline.
        fast: Optimizations, as names and words with commas between them.
        num_images: Images that one call generates.
        guidance: Guidance scale; None for the model's own.
        batch_invariant: Whether to compute each image by itself, as calls do by default, or the batch in one pass.
        threads: Threads that PyTorch computes with; None for its own choice.
    """

    model: str | None = None
    preset: str | None = None
    tokenizer: str = "d32"
    dtype: str = "auto"
    device: str = "auto"
    fast: str = "auto"
    num_images: int = 1
    guidance: float | None = None
    batch_invariant: bool = True
    threads: int | None = None

    @property
    def source(self) -> "GenerationSetting":
        """The fields that decide which pipeline is loaded; the others have their defaults."""
        return GenerationSetting(self.model, self.preset, self.tokenizer, self.dtype, self.device, self.fast)

    def load(self) -> InfinityPipeline:
        """Load the model, or build the preset with random weights.

        Raises:
            UsageError: If the model, the preset, the precision, the device or an optimization is unknown.
            WeightsError: If the model's files are missing or altered.
        """
        fast = self.fast.split(",")
        if self.preset is None:
            return InfinityPipeline.from_pretrained(self.model, dtype=self.dtype, device=self.device, fast=fast)
        pipeline = random_pipeline(self.preset, self.tokenizer, dtype=self.dtype, device=self.device)
        pipeline.optimize(*fast)
        return pipeline


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Compute with this number of threads inside a `with` block, and yield the number in use; None changes nothing.

    Raises:
        UsageError: For more than `MOST_THREADS` a processor.
    """
    processors = num_processors()
    if count is not None and count > MOST_THREADS * processors:
        why = f"this machine has {processors} processors, and threads beyond them wait for each other"
        raise UsageError(f"{count} threads are too many.", why, f"give at most {processors} for speed")
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class GenerationSpeed:
    """Result of `measure_generation`.

    Attributes:
        num_images: Images generated by one call.
        guidance_scale: Guidance scale in use, one number or one per scale.
        runs: Timings of every counted call.
        peak_memory_mb: Peak memory of the device on CUDA, of the process elsewhere.
    """

    num_images: int
    guidance_scale: PerScale
    runs: tuple[RunTimings, ...]
    peak_memory_mb: float

    def medians(self) -> dict[str, float]:
        """Return the median seconds of every stage, by name."""
        named = [run.named() for run in self.runs]
        return {name: round(statistics.median(run[name] for run in named), 4) for name in named[0]}


def measure_generation(
    pipeline: InfinityPipeline,
    *,
    num_images: int = 1,
    guidance_scale: float | None = None,
    runs: int = 5,
    batch_invariant: bool = True,
) -> GenerationSpeed:
    """Time calls of a pipeline, after one call to warm up.

    Args:
        pipeline: Pipeline to time.
        num_images: Images that one call generates.
        guidance_scale: Guidance scale; None for the model's own.
        runs: Number of counted calls.
        batch_invariant: Whether to compute each image by itself, as calls do by default, or the batch in one pass.
    """
    params = pipeline.params_for(SamplingParams(guidance_scale=guidance_scale))
    timings = [
        time_call(pipeline, num_images, guidance_scale, seed=seed, batch_invariant=batch_invariant)
        for seed in range(runs + 1)
    ]
    memory = peak_memory(pipeline.transformer.device)
    return GenerationSpeed(num_images, params.complete().guidance_scale or 1.0, tuple(timings[1:]), memory)


def time_call(
    pipeline: InfinityPipeline,
    num_images: int,
    guidance_scale: float | None,
    *,
    seed: int,
    batch_invariant: bool = True,
) -> RunTimings:
    """Time the stages of one call.

    Args:
        pipeline: Pipeline to time.
        num_images: Images to generate.
        guidance_scale: Guidance scale; None for the model's own.
        seed: Seed of the call.
        batch_invariant: Whether to compute each image by itself, as calls do by default, or the batch in one pass.
    """
    assert pipeline.text_encoder is not None
    clock = Clock(pipeline.transformer.device)
    encoder = _TimedTextEncoder(pipeline.text_encoder, clock)
    timed = copy.copy(pipeline)  # shares everything but the encoder
    timed.text_encoder = encoder
    scales: list[float] = []
    events = timed.stream(
        distinct_prompts(num_images), seed=seed, guidance_scale=guidance_scale, batch_invariant=batch_invariant
    )
    last = None
    for event in events:
        scales.append(clock.lap())
        last = event
    assert last is not None
    _ = last.pixels  # decoded on access
    return RunTimings(encoder.seconds, tuple(scales), clock.lap())


class _TimedTextEncoder(TextEncoder):
    """A text encoder that adds up the seconds of its calls, so that the first scale's time does not include them."""

    def __init__(self, encoder: TextEncoder, clock: Clock) -> None:
        super().__init__(encoder.model, encoder.tokenizer, encoder.hidden_states)
        self.kind = encoder.kind
        self.seconds = 0.0
        self._encoder, self._clock = encoder, clock

    def _features(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "b t w"]:
        features = self._encoder._features(ids, mask)
        self.seconds += self._clock.lap()
        return features


class _RandomTextEncoder(TextEncoder):
    """A stand-in for a text encoder: every prompt becomes random features of `RANDOM_TEXT_TOKENS` tokens."""

    kind = "random"

    def __init__(self, width: int) -> None:
        super().__init__(_OneEmbedding(width), _one_token_vocabulary(), ())
        self._width = width
        self._generator = torch.Generator().manual_seed(0)

    def _features(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "b t w"]:
        return torch.randn(*ids.shape, self._width, generator=self._generator).to(ids.device)


def _one_token_vocabulary() -> PromptTokenizer:
    """Make a vocabulary of one token, `RANDOM_TEXT_TOKENS` of which stand for any prompt."""
    tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    tokenizer.normalizer = Replace(Regex(r"\A[\s\S]+"), " ".join("a" * RANDOM_TEXT_TOKENS))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PromptTokenizer(tokenizer, {})


class _OneEmbedding(nn.Module):
    """The vocabulary of `_RandomTextEncoder`: one token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.zeros(1, width))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding


def random_pipeline(preset: str, tokenizer: str, *, dtype: str = "auto", device: str = "auto") -> InfinityPipeline:
    """Build a pipeline with random weights and random text features, as fast as a trained one.

    The weights are created in their own precision, and are the same on every call.

    Args:
        preset: Name of a transformer preset, such as "125M".
        tokenizer: Name of a tokenizer preset, such as "d32".
        dtype: Precision of the weights, as for a pipeline.
        device: Device, as for a pipeline.

    Raises:
        UsageError: If a preset is unknown.
    """
    for what, name, table in (("preset", preset, PRESETS), ("tokenizer", tokenizer, TOKENIZER_PRESETS)):
        if name not in table:
            raise UsageError(unknown(f"{what} {name!r}", name, list(table)))
    chosen = resolve_device(device)
    precision = resolve_dtype(dtype, chosen)
    with torch.device("meta"):
        transformer = InfinityTransformer(PRESETS[preset])
        image_tokenizer = InfinityTokenizer(TOKENIZER_PRESETS[tokenizer])
    for module in (transformer, image_tokenizer):
        _assign_random_weights(module, device=chosen, dtype=precision)
        module.eval().requires_grad_(False)
    identity = TokenizerIdentity(name=tokenizer, sha256="0" * 64)
    defaults = SamplingParams(guidance_scale=4.0, temperature=0.5, top_p=0.97)
    index = ModelIndex(name=preset, tokenizer=identity, defaults=defaults)
    encoder = _RandomTextEncoder(transformer.config.text_width).to(chosen)
    return InfinityPipeline(Components(transformer, image_tokenizer, encoder, index, ""))


def _assign_random_weights(module: nn.Module, *, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module that was built without data random weights, the same every time, in their own precision and layout.

    Norms are 1, biases 0, and the rest normal with a variance of 1 / inputs. Nothing else is allocated; a model built
    in fp32 and then cast to bf16 takes twice its size at the peak.
    """
    generator = torch.Generator(device).manual_seed(0)
    weights: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        layout = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        weights[name] = torch.empty(parameter.shape, dtype=dtype, device=device, memory_format=layout)
        if parameter.ndim > 1:
            weights[name].normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            weights[name].fill_(1.0 if name.endswith("weight") else 0.0)
    module.load_state_dict(weights, assign=True)


def distinct_prompts(count: int) -> list[str]:
    """Return distinct prompts of several lengths. A pipeline would encode equal prompts only once."""
    subjects = ("red apple", "cat", "house with a chimney", "blue balloon", "car", "star", "tree", "green fish")
    endings = (" with a shadow", "", " on a yellow background", ", flat design")
    prompts = [f"a {subject}{ending}" for ending in endings for subject in subjects]
    return [f"{prompts[i % len(prompts)]} {i // len(prompts)}".removesuffix(" 0") for i in range(count)]
