r"""Train latent flow matching in the bitwise transformer's place, on the same data with the same frozen parts.

bitvar train recipes/icons/stickers_transformer.py --data data/stickers --out runs/stickers --name stickers \
    --tokenizer runs/stickers-tokenizer/model --text-encoder src/bitvar/pretrained/icons/text_encoder
python experiments/flow_matching.py recipes/icons/stickers_transformer.py --data data/stickers --out runs/flow \
    --tokenizer runs/stickers-tokenizer/model --text-encoder src/bitvar/pretrained/icons/text_encoder \
    --prompts prompts.jsonl

The model is diffusers' PixArt transformer with the recipe's width, depth, heads and text adapter. It learns the
velocity from the latent, the sum of all scales' codes, to Gaussian noise (Lipman et al., arXiv 2210.02747), at times
drawn from a logit-normal distribution (Esser et al., arXiv 2403.03206). The tokenizer's decoder turns latents into
pixels for both models. Order of the samples, captions, dropped texts, optimizer, averages and precision are the
recipe's. `facts.json` in OUT has the parameters and the operations of a training sample of both models: match the
training compute by `--set optimization.steps=`.

With `--prompts`, an image of each is drawn into OUT/images for `bitvar evaluate ... --images`, and `speed.json` has the
seconds an image, from text to pixels. Needs diffusers. The same command resumes an interrupted run.
"""

import argparse
import json
import statistics
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bitvar import pyramid
from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.files import atomic_path, write_text
from bitvar.imaging.convert import to_pil
from bitvar.nn.linear import Linear
from bitvar.text import TextEncoder, load_text_encoder, published_settings
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.loop import Metrics, SampleCost, TrainerConfig, train
from bitvar.training.engine.microbatch import MicroBatch, Purpose, draw_uniform, make_generator, micro_batches_in_order
from bitvar.training.recipes import configure
from bitvar.training.transformer.feature_cache import features_key, load_feature_sets
from bitvar.training.transformer.task import VALIDATION_BATCH, Batch, TransformerTask
from bitvar.transformer import TransformerConfig
from bitvar.transformer.embed import TextAdapter
from bitvar.weights.identity import TokenizerIdentity
from bitvar.weights.model_folder import load_component

FACTS: Final = "facts.json"
SPEED: Final = "speed.json"
PATCH: Final = 2
"""Side of a token in cells of the tokenizer."""
TIMES: Final = 1000.0
"""Time of pure noise, as the transformer's time embedding counts."""
SAMPLES_FOR_MOMENTS: Final = 2000


class FlowModel(nn.Module):
    """The velocity of a latent at a time, given a text.

    Args:
        config: Configuration of the bitwise transformer that it stands beside.
        channels: Number of channels of the tokenizer's latent.
        side: Number of cells along a side of the latent.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: TransformerConfig, *, channels: int, side: int) -> None:
        super().__init__()
        self.adapter = TextAdapter(config) if config.text_adapter_depth else None
        self.null = nn.Parameter(torch.zeros(config.max_text_tokens, config.condition_width))
        self.transformer = PixArtTransformer2DModel(
            num_attention_heads=config.num_heads,
            attention_head_dim=config.width // config.num_heads,
            in_channels=channels,
            out_channels=channels,
            num_layers=config.depth,
            cross_attention_dim=config.width,
            sample_size=side,
            patch_size=PATCH,
            caption_channels=config.condition_width,
            use_additional_conditions=False,
        )
        use_own_linear_layers(self.transformer.transformer_blocks)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))

    def text(self, condition: TextCondition) -> Float[Tensor, "b t c"]:
        """Compute what the blocks attend to; dropped texts become learned vectors."""
        features = condition.features.to(self.null.dtype)
        if self.adapter is not None:
            features = self.adapter(features, condition.mask)
        null = self.null[: features.shape[1]].to(features.dtype)
        return torch.where(condition.dropped[:, None, None], null, features)

    def forward(
        self,
        latent: Float[Tensor, "b d h w"],
        times: Float[Tensor, " b"],
        text: Float[Tensor, "b t c"],
        condition: TextCondition,
    ) -> Float[Tensor, "b d h w"]:
        """Compute the velocity, noise minus latent.

        Args:
            latent: Standardised latent with its share of noise.
            times: Shares of noise, 0..1.
            text: Output of `text`.
            condition: Condition that the text was computed from; only its mask is read.
        """
        velocity = self.transformer(
            latent,
            encoder_hidden_states=text,
            timestep=times * TIMES,
            encoder_attention_mask=condition.mask.to(text.dtype),
            return_dict=False,
        )[0]
        return velocity.float()

    def standardise(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return (latent - self.mean) / self.deviation

    def restore(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Invert `standardise`."""
        return latent * self.deviation + self.mean


def use_own_linear_layers(module: nn.Module) -> None:
    """Replace linear layers by this project's with the same weights, which the optimizer knows as hidden matrices."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            own = Linear(child.in_features, child.out_features, bias=child.bias is not None)
            own.load_state_dict(child.state_dict())
            setattr(module, name, own)
        else:
            use_own_linear_layers(child)


class FlowTask:
    """The step of a run of flow matching. Implements `loop.Task`.

    Args:
        inner: Task of the corresponding bitwise run, for its data, captions and settings.
    """

    def __init__(self, inner: TransformerTask) -> None:
        self.inner = inner
        self.counts, self.dtype, self.device = inner.counts, inner.dtype, inner.device
        self.grids = inner.schedules[0].latent_grids(inner.config.model.patch_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make_generator(inner.config.optimization.seed, 2, Purpose.WEIGHTS).initial_seed())
            self.model = self.build_model()

    @property
    def fsdp_units(self) -> Sequence[nn.Module]:
        return list(self.model.transformer.transformer_blocks)

    def build_model(self) -> FlowModel:
        config = self.inner.config.model
        return FlowModel(config, channels=config.bits // config.patch_size**2, side=self.grids[-1][0])

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        return self.inner.batches(micro_batches)

    def sample_cost(self, bucket: int) -> SampleCost:
        height, width = self.grids[-1]
        return SampleCost(height * width // PATCH**2, 0.0)

    def latents(self, features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Quantise features, and sum the codes of all scales."""
        steps = list(pyramid.encode(features.float(), self.grids, self.inner.code_norms[0]))
        return steps[-1].latent

    @torch.no_grad()
    def measure_moments(self, features: Float[Tensor, "n d h w"]) -> None:
        """Set the means and deviations that standardise a latent's channels."""
        parts = features[:SAMPLES_FOR_MOMENTS].split(VALIDATION_BATCH)
        latents = torch.cat([self.latents(part.to(self.device)) for part in parts])
        self.model.mean.copy_(latents.mean(dim=(0, 2, 3))[:, None, None])
        self.model.deviation.copy_(latents.std(dim=(0, 2, 3))[:, None, None])

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        generators = batch.micro_batch.generators(Purpose.DROPOUT)
        dropped = draw_uniform(generators) < self.inner.config.condition_dropout
        loss = self._error(self.model, batch, batch.condition.drop(dropped))
        return loss, {}

    def _error(self, model: nn.Module, batch: Batch, condition: TextCondition) -> Tensor:
        """Compute the mean squared error of the velocity at one random time a sample."""
        assert isinstance(model, FlowModel)
        latent = model.standardise(self.latents(batch.features.to(self.device)))
        generators = batch.micro_batch.generators(Purpose.FLIP)
        times = torch.stack([torch.randn((), generator=g) for g in generators]).sigmoid().to(self.device)
        noise = torch.stack([torch.randn(latent.shape[1:], generator=g) for g in generators]).to(self.device)
        share = times[:, None, None, None]
        condition = condition.to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            velocity = model((1 - share) * latent + share * noise, times, model.text(condition), condition)
        return F.mse_loss(velocity, noise - latent)

    @torch.no_grad()
    def validate(self, model: nn.Module, context: DistributedContext) -> Metrics:
        """Measure the error on validation samples at one fixed time each, with their first captions."""
        assert context.world == 1
        data, total = self.inner.validation, 0.0
        micro_batches, counted = micro_batches_in_order(data.counts, rank=0, num_ranks=1, size=VALIDATION_BATCH)
        for batch, weight in zip(data.batches(micro_batches, None), counted, strict=True):
            total += weight * float(self._error(model, batch, batch.condition))
        return {"loss": total / sum(data.counts)}


def training_operations(task: FlowTask | TransformerTask) -> int:
    """Count the floating-point operations of one sample's loss and gradients."""
    micro_batches, _ = micro_batches_in_order((1,), rank=0, num_ranks=1, size=1)
    batch = next(task.batches(micro_batches))
    with FlopCounterMode(display=False) as counter:
        task.loss(batch)[0].backward()
    task.model.zero_grad()
    return counter.get_total_flops()


@torch.inference_mode()
def draw_latents(
    model: FlowModel,
    condition: TextCondition,
    *,
    shape: tuple[int, int, int],
    steps: int,
    guidance: float,
    seeds: Sequence[int],
) -> Float[Tensor, "b d h w"]:
    """Draw latents by Euler's method from noise, guided at every step.

    Args:
        model: Trained model.
        condition: Text of `b` prompts.
        shape: Channels, rows and columns of a latent.
        steps: Number of steps.
        guidance: Guidance scale; at 1 the unconditional half is left out.
        seeds: One seed an image.
    """
    guided = guidance != 1.0
    both = condition.concatenate(condition.drop(torch.ones(condition.batch, dtype=torch.bool))) if guided else condition
    text = model.text(both)
    scheduler: Any = FlowMatchEulerDiscreteScheduler()  # its annotations disagree with its use
    scheduler.set_timesteps(steps)
    latent = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    for time_now, share in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        rows = torch.cat([latent, latent]) if guided else latent
        velocity = model(rows, share.expand(len(rows)), text, both)
        if guided:
            given, free = velocity.chunk(2)
            velocity = free + guidance * (given - free)
        latent = scheduler.step(velocity, time_now, latent, return_dict=False)[0]
    return model.restore(latent)


@dataclass(frozen=True)
class Frozen:
    """The two frozen parts."""

    tokenizer: InfinityTokenizer
    text_encoder: TextEncoder


def train_flow(config: TransformerTraining, options: argparse.Namespace, frozen: Frozen) -> FlowTask:
    """Train, or resume an interrupted run; return the task with the averaged weights in its model."""
    identity = TokenizerIdentity.load(options.tokenizer / "identity.json")
    key = features_key(identity.bits_sha256, frozen.text_encoder, options.text_encoder)
    options.out.mkdir(parents=True, exist_ok=True)
    train_data, validation = load_feature_sets(
        options.data, options.out, tokenizer=frozen.tokenizer, text_encoder=frozen.text_encoder, key=key, log=tell,
        max_text_tokens=config.model.max_text_tokens,
    )  # fmt: skip
    bitwise = TransformerTask(config, train=train_data, validation=validation)
    task = FlowTask(bitwise)
    task.measure_moments(train_data.features)
    facts = {
        name: {
            "parameters": sum(parameter.numel() for parameter in part.model.parameters()),
            "training_flops_per_sample": training_operations(part),
        }
        for name, part in (("bitwise", bitwise), ("flow", task))
    }
    write_text(options.out / FACTS, json.dumps(facts, indent=2) + "\n")
    text = json.dumps({**json.loads(config.dump()), "model": "flow matching"})
    model = train(task, TrainerConfig(options.out, text, config.optimization, config.intervals, log=tell))
    assert isinstance(model, FlowModel)
    model.mean.copy_(task.model.mean)  # averages cover parameters only
    model.deviation.copy_(task.model.deviation)
    task.model = model.eval()
    return task


def draw_prompts(task: FlowTask, frozen: Frozen, options: argparse.Namespace) -> None:
    """Draw images of each prompt, ID-0.png and so on, with the seeds of bitvar's own evaluations, one at a time."""
    rows = [json.loads(line) for line in options.prompts.read_text(encoding="utf-8").splitlines()]
    folder, config = options.out / "images", frozen.tokenizer.config
    folder.mkdir(parents=True, exist_ok=True)
    seconds = []
    for row, number in islice(((row, n) for row in rows for n in range(options.images)), options.limit):
        path = folder / f"{row['id']}-{number}.png"
        if path.is_file():
            continue
        start = time.perf_counter()
        latent = draw_latents(
            task.model,
            frozen.text_encoder.encode([row["prompt"]]),
            shape=(config.bits, *task.grids[-1]),
            steps=options.steps,
            guidance=options.guidance,
            seeds=[zlib.crc32(row["id"].encode()) + number],
        )
        with torch.inference_mode():
            image = to_pil(frozen.tokenizer.decode(latent))[0]
        seconds.append(time.perf_counter() - start)
        with atomic_path(path) as temporary:
            image.save(temporary, format="PNG")
    if seconds:
        speed = {"seconds_per_image": round(statistics.median(seconds), 4), "images": len(seconds)}
        speed |= {"steps": options.steps, "guidance": options.guidance, "threads": torch.get_num_threads()}
        write_text(options.out / SPEED, json.dumps(speed) + "\n")


def tell(line: str) -> None:
    """Print a line of progress."""
    sys.stderr.write(line + "\n")


def read_options() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train latent flow matching beside a recipe, and draw with it.")
    parser.add_argument("recipe", type=Path, help="recipe of the bitwise transformer")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="optimization.steps=1000")
    parser.add_argument("--prompts", type=Path, help="JSON lines with id and prompt, to draw")
    parser.add_argument("--images", type=int, default=1, help="images of each prompt")
    parser.add_argument("--limit", type=int, help="number of images in all")
    parser.add_argument("--steps", type=int, default=25, help="steps of Euler's method")
    parser.add_argument("--guidance", type=float, default=3.0)
    return parser, parser.parse_args()


def main() -> None:
    """See the module's docstring."""
    parser, options = read_options()
    try:
        if options.prompts is not None and not options.prompts.is_file():
            raise UsageError(f"There is no {options.prompts}.", "--prompts names it", "check the path")
        config = configure(options.recipe, settings=options.settings)
        if not isinstance(config, TransformerTraining):
            raise UsageError(f"{options.recipe} trains no transformer.", fix="name the recipe of a transformer")
        encoder = load_text_encoder(options.text_encoder, settings=published_settings(options.text_encoder))
        frozen = Frozen(load_component(InfinityTokenizer, options.tokenizer), encoder)
        task = train_flow(config, options, frozen)
        if options.prompts is not None:
            draw_prompts(task, frozen, options)
    except UsageError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
