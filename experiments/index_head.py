r"""Train a conventional classifier in the bitwise head's place: one class for each of the 2^d codes of a token.

bitvar train recipes/vocabulary/tokenizer.py --recipe-arg bits=12 --data data/icons64 --out runs/d12 --name d12
bitvar train recipes/experiments/transformer.py --recipe-arg bits=12 --recipe-arg patch=1 \
    --data data/icons64 --out runs/bits12 --name bits12 --tokenizer runs/d12/model \
    --text-encoder src/bitvar/pretrained/icons/text_encoder
python experiments/index_head.py --recipe-arg bits=12 --recipe-arg patch=1 --data data/icons64 --out runs/index12 \
    --tokenizer runs/d12/model --text-encoder src/bitvar/pretrained/icons/text_encoder \
    --prompts src/bitvar/icons/dataset/prompts.jsonl

It follows recipes/experiments/transformer.py with the given `--recipe-arg`, except for the head: `Linear(width, 2^d)`
and cross-entropy over codes. Everything else is the same: initial weights of the trunk, order, captions, flips. Losses
compare in nats a token: the bitwise model's is d times its nats a bit, since it treats the bits of a token as
independent given its input, which the index model doesn't. With `--prompts`, an image of each is drawn into OUT/images
for `bitvar evaluate scenes --images`, with guided logits and one draw a token.

The same command resumes an interrupted run. Apart from the head of 2^d rows, it costs as much as a bitwise run.
"""

import argparse
import json
import math
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bitvar import pyramid
from bitvar.bits import bits_to_codes, to_cells
from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.files import atomic_path, write_text
from bitvar.imaging.convert import to_pil
from bitvar.nn.linear import Linear
from bitvar.sampling.draw import apply_guidance
from bitvar.sampling.noise import uniform_noise
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule, code_norms_of
from bitvar.text import TextEncoder, load_text_encoder, published_settings
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.loop import Metrics, SampleCost, TrainerConfig, train
from bitvar.training.engine.microbatch import MicroBatch, Purpose, make_generator, micro_batches_in_order
from bitvar.training.recipes import read_recipe
from bitvar.training.transformer.feature_cache import features_key, load_feature_sets
from bitvar.training.transformer.self_correction import teacher_forcing
from bitvar.training.transformer.task import VALIDATION_BATCH, Batch, TransformerTask
from bitvar.transformer import InfinityTransformer
from bitvar.weights.identity import TokenizerIdentity
from bitvar.weights.model_folder import load_component

RECIPE: Final = Path(__file__).parents[1] / "recipes" / "experiments" / "transformer.py"
FACTS: Final = "facts.json"
MAX_BITS: Final = 16
"""Largest number of bits of a token; beyond, the head dwarfs everything else."""
BATCH: Final = 16


@torch.no_grad()
def give_index_head(model: InfinityTransformer, generator: torch.Generator) -> None:
    """Replace the bitwise head by one with a row for each code, initialised in the same way.

    Raises:
        UsageError: for more than `MAX_BITS` bits.
    """
    width, bits = model.config.width, model.config.bits
    if bits > MAX_BITS:
        why = f"the head would have 2^{bits} rows of {width} channels"
        raise UsageError(f"{bits} bits are too many.", why, f"take a tokenizer of at most {MAX_BITS}")
    model.head = Linear(width, 2**bits)
    std = math.sqrt(1 / (3 * width))
    nn.init.trunc_normal_(model.head.weight, std=std, a=-2 * std, b=2 * std, generator=generator).mul_(0.02)
    model.head.bias.zero_()


def to_index(bits: Bool[Tensor, "*n d"]) -> Int[Tensor, "*n"]:
    """Compute the index of a code: bit i counts 2^i."""
    return (bits.long() << torch.arange(bits.shape[-1])).sum(-1)


def to_bits(index: Int[Tensor, "*n"], num_bits: int) -> Bool[Tensor, "*n d"]:
    """Invert `to_index`."""
    return (index[..., None] >> torch.arange(num_bits)) % 2 == 1


def index_logits(head: Float[Tensor, "b l half 2"]) -> Float[Tensor, "b l v"]:
    """Flatten the model's output, which pairs the head's rows, to the logits of every code."""
    return head.flatten(-2)


def index_losses(logits: Float[Tensor, "b l v"], bits: Bool[Tensor, "b l d"]) -> Float[Tensor, "b l"]:
    """Compute the cross-entropy of every token's code, in nats a token."""
    return F.cross_entropy(logits.movedim(-1, 1).float(), to_index(bits), reduction="none")


class IndexTask:
    """The step of a run with an index head. Implements `loop.Task`.

    Args:
        inner: Task of the corresponding bitwise run; its model's head is replaced.
    """

    def __init__(self, inner: TransformerTask) -> None:
        self.inner = inner
        give_index_head(inner.model, make_generator(inner.config.optimization.seed, 1, Purpose.WEIGHTS))
        self.model = inner.model
        self.fsdp_units, self.counts = inner.fsdp_units, inner.counts
        self.dtype, self.device = inner.dtype, inner.device

    def build_model(self) -> nn.Module:
        model = InfinityTransformer(self.inner.config.model)
        give_index_head(model, torch.Generator())
        return model

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        return self.inner.batches(micro_batches)

    def sample_cost(self, bucket: int) -> SampleCost:
        return SampleCost(self.inner.sample_cost(bucket).tokens, 0.0)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        condition, data = self.inner.corrupted(batch)
        logits = index_logits(self.model(condition, data.inputs, self.inner.schedules[0], dtype=self.dtype))
        losses = index_losses(logits, data.target_bits)
        return losses.mean(), {"accuracy": bit_accuracy(logits.detach(), data.target_bits)}

    @torch.no_grad()
    def validate(self, model: nn.Module, context: DistributedContext) -> Metrics:
        """Measure nats a token and bit accuracy on validation samples, without flips and dropout."""
        assert isinstance(model, InfinityTransformer) and context.world == 1
        data, schedule = self.inner.validation, self.inner.schedules[0]
        micro_batches, counted = micro_batches_in_order(data.counts, rank=0, num_ranks=1, size=VALIDATION_BATCH)
        sums, code_norms = torch.zeros(2, dtype=torch.float64), model.config.all_code_norms()[0]
        for batch, weight in zip(data.batches(micro_batches, None), counted, strict=True):
            forced = teacher_forcing(batch.features.float(), schedule, patch_size=1, code_norms=code_norms)
            logits = index_logits(model(batch.condition, forced.inputs, schedule, dtype=self.dtype))
            losses = index_losses(logits, forced.target_bits)
            sums += weight * torch.stack([losses.mean(), bit_accuracy(logits, forced.target_bits)]).double()
        loss, accuracy = (sums / sum(data.counts)).tolist()
        return {"loss": loss, "accuracy": accuracy}


def bit_accuracy(logits: Float[Tensor, "b l v"], bits: Bool[Tensor, "b l d"]) -> Float[Tensor, ""]:
    """Compute the share of bits that the most probable code has right."""
    return (to_bits(logits.argmax(-1), bits.shape[-1]) == bits).float().mean()


@torch.inference_mode()
def draw_latents(
    model: InfinityTransformer,
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    params: SamplingParams,
    seeds: Sequence[int],
) -> Float[Tensor, "b d h w"]:
    """Draw final latents, one code for each token: `sampling.generate` for an index head, always guided."""
    assert isinstance(params.guidance_scale, (int, float)) and isinstance(params.temperature, (int, float))
    batch, bits, grids = condition.batch, model.config.bits, schedule.latent_grids(1)
    both = condition.concatenate(condition.drop(torch.ones(batch, dtype=torch.bool)))
    state = model.start_decoding(both, schedule)
    tokens = model.start_tokens(state.condition)
    latent = pyramid.empty_latent(batch, bits, grids[-1], model.device)
    code_norms = code_norms_of(model.config.code_norms, len(grids))
    for k, grid in enumerate(grids):
        logits = model.decode_scale(tokens, k, state)
        guided = index_logits(apply_guidance(logits[:batch], logits[batch:], params.guidance_scale)).float()
        noise = torch.stack([uniform_noise(seed, k, guided.shape[1:2]) for seed in seeds]).to(guided.device)
        drawn = to_bits(draw_index(guided, params.temperature, noise), bits)
        latent = pyramid.add_scale(latent, bits_to_codes(to_cells(drawn.float(), grid, 1) > 0, code_norms[k]))
        if k + 1 < len(grids):
            tokens = model.embed(pyramid.next_input(latent, grids[k + 1]), k + 1).repeat(2, 1, 1)
    return latent


def draw_index(logits: Float[Tensor, "b l v"], temperature: float, noise: Float[Tensor, "b l"]) -> Int[Tensor, "b l"]:
    """Draw a code for each token by uniform numbers in [0, 1); at temperature 0, take the most probable."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulated = (logits / temperature).softmax(-1).cumsum(-1)
    chosen = torch.searchsorted(cumulated, noise[..., None] * cumulated[..., -1:], right=True)[..., 0]
    return chosen.clamp(max=logits.shape[-1] - 1)


@dataclass(frozen=True)
class Frozen:
    """The two frozen parts."""

    tokenizer: InfinityTokenizer
    text_encoder: TextEncoder


def train_index_head(config: TransformerTraining, options: argparse.Namespace, frozen: Frozen) -> InfinityTransformer:
    """Train, or resume an interrupted run; return the model with its averaged weights."""
    identity = TokenizerIdentity.load(options.tokenizer / "identity.json")
    key = features_key(identity.bits_sha256, frozen.text_encoder, options.text_encoder)
    options.out.mkdir(parents=True, exist_ok=True)
    train_data, validation = load_feature_sets(
        options.data, options.out, tokenizer=frozen.tokenizer, text_encoder=frozen.text_encoder, key=key, log=tell,
        max_text_tokens=config.model.max_text_tokens,
    )  # fmt: skip
    task = IndexTask(TransformerTask(config, train=train_data, validation=validation))
    facts = {"head": "index", "bits": config.model.bits, "parameters": sum(p.numel() for p in task.model.parameters())}
    write_text(options.out / FACTS, json.dumps(facts) + "\n")
    text = json.dumps({**json.loads(config.dump()), "head": "index"})
    model = train(task, TrainerConfig(options.out, text, config.optimization, config.intervals, log=tell))
    assert isinstance(model, InfinityTransformer)
    return model


def draw_prompts(
    model: InfinityTransformer, frozen: Frozen, prompts: Path, folder: Path, *, count: int, params: SamplingParams
) -> None:
    """Draw `count` images of each prompt, ID-0.png and so on, with the seeds of `bitvar evaluate scenes`."""
    rows = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    jobs = iter([(row["id"], row["prompt"], number) for row in rows for number in range(count)])
    folder.mkdir(parents=True, exist_ok=True)
    schedule = model.config.all_schedules()[0]
    while part := list(islice(jobs, BATCH)):
        paths = [folder / f"{name}-{number}.png" for name, _, number in part]
        if all(path.is_file() for path in paths):
            continue
        seeds = [zlib.crc32(name.encode()) + number for name, _, number in part]
        condition = frozen.text_encoder.encode([prompt for _, prompt, _ in part])
        latent = draw_latents(model, condition, schedule, params=params, seeds=seeds)
        with torch.inference_mode():
            images = to_pil(frozen.tokenizer.decode(latent))
        for image, path in zip(images, paths, strict=True):
            with atomic_path(path) as temporary:
                image.save(temporary, format="PNG")


def tell(line: str) -> None:
    """Print a line of progress."""
    sys.stderr.write(line + "\n")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Train a transformer with an index head, and draw with it.")
    parser.add_argument(
        "--recipe-arg", dest="arguments", action="append", default=[], help="argument of the recipe: bits=12"
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, help="JSON lines with id and prompt, to draw")
    parser.add_argument("--images", type=int, default=1, help="images of each prompt")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--temperature", type=float, default=0.5)
    options = parser.parse_args()
    try:
        if options.prompts is not None and not options.prompts.is_file():
            raise UsageError(f"There is no {options.prompts}.", "--prompts names it", "check the path")
        config = read_recipe(RECIPE, options.arguments)
        assert isinstance(config, TransformerTraining)
        encoder = load_text_encoder(options.text_encoder, settings=published_settings(options.text_encoder))
        frozen = Frozen(load_component(InfinityTokenizer, options.tokenizer), encoder)
        model = train_index_head(config, options, frozen)
        if options.prompts is not None:
            params = SamplingParams(guidance_scale=options.guidance, temperature=options.temperature)
            draw_prompts(model, frozen, options.prompts, options.out / "images", count=options.images, params=params)
    except UsageError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
