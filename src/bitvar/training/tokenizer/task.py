"""The tokenizer's training task: reconstruction, adversarial and perceptual losses, and the use of the bits."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from bitvar.imaging.pixels import to_signed
from bitvar.metrics.distances import Distance
from bitvar.metrics.per_scale import binary_entropy
from bitvar.nn.linear import channels_last
from bitvar.pyramid import ScaleStep
from bitvar.runtime.placement import DTYPES
from bitvar.tokenizer import InfinityTokenizer, losses
from bitvar.tokenizer.discriminator import PatchDiscriminator
from bitvar.training.config import TokenizerTraining
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.loop import Metrics, SampleCost
from bitvar.training.engine.microbatch import MicroBatch
from bitvar.training.tokenizer.data import ImageBatch, ImageData
from bitvar.training.tokenizer.validation import measure_reconstruction


class TokenizerModels(nn.Module):
    """The tokenizer and its discriminator, if any, in one module for one optimizer and one checkpoint."""

    def __init__(self, config: TokenizerTraining) -> None:
        super().__init__()
        self.tokenizer = InfinityTokenizer(config.model)
        self.discriminator: PatchDiscriminator | None = None
        if config.adversarial > 0:
            self.discriminator = PatchDiscriminator(
                channels=config.model.image_channels,
                width=config.discriminator_width,
                num_levels=config.discriminator_levels,
            )
        self.tokenizer.encoder.requires_grad_(config.trained != "decoder")
        self.tokenizer.decoder.requires_grad_(config.trained != "encoder")


class TokenizerTask:
    """Training task of a tokenizer run. Implements `loop.Task`.

    Args:
        config: Configuration of the run.
        train, validation: Data of the run. It stays on the CPU, and one batch at a time is moved to the device.
        perceptual: Perceptual distance; required if its weight is not 0.
        device: Device of the model.
    """

    def __init__(
        self,
        config: TokenizerTraining,
        *,
        train: ImageData,
        validation: ImageData,
        perceptual: Distance | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (a constant)
    ) -> None:
        if config.perceptual > 0 and perceptual is None:
            raise ValueError("a perceptual weight needs a perceptual network; pass one, or set the weight to 0")
        torch.manual_seed(config.optimization.seed)
        self.config, self.device = config, device
        self.model = TokenizerModels(config).to(device)
        self.layout = torch.contiguous_format  # group norm's backward is slow for channels-last tensors on a CPU
        if device.type != "cpu":
            channels_last(self.model)
            self.layout = torch.channels_last
        self.train, self.validation = train, validation
        self.fsdp_units: Sequence[nn.Module] = ()  # small enough to replicate, and its submodules are called directly
        self.perceptual = perceptual
        self.dtype = DTYPES[config.optimization.precision]

    @property
    def counts(self) -> tuple[int, ...]:
        return self.train.counts

    def build_model(self) -> nn.Module:
        return TokenizerModels(self.config)

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[ImageBatch]:
        return self.train.batches(micro_batches)

    def sample_cost(self, bucket: int) -> SampleCost:
        return SampleCost(0, 0.0)

    def loss(self, batch: ImageBatch) -> tuple[Tensor, dict[str, Tensor]]:
        config, tokenizer, micro_batch = self.config, self.model.tokenizer, batch.micro_batch
        images = to_signed(batch.images.to(tokenizer.device)).contiguous(memory_format=self.layout)
        with torch.set_grad_enabled(config.trained != "decoder"):
            features = tokenizer.encoder(images.to(self.dtype)).float()
            steps = list(tokenizer.encode_scales(features, config.schedules[self.train.schedules[micro_batch.bucket]]))
        latent = steps[self._stop(len(steps), micro_batch)].latent
        reconstruction = tokenizer.decoder(latent.to(self.dtype)).float()
        logged = bit_entropies(steps)
        terms = {"reconstruction": losses.reconstruction_loss(reconstruction, images)}
        if config.multiscale > 0:
            terms["multiscale"] = config.multiscale * losses.multiscale_loss(reconstruction, images)
        if self.perceptual is not None and config.perceptual > 0:
            terms[self.perceptual.name] = config.perceptual * self.perceptual(reconstruction, images).mean()
        if self.model.discriminator is not None and micro_batch.step >= config.adversarial_start:
            seen = torch.stack(list(terms.values())).sum()
            players, logged["generator_weight"] = self._adversarial(reconstruction, images, seen)
            terms |= players
        if config.trained != "decoder":
            terms["commitment"] = config.commitment * losses.commitment_loss(features, steps[-1].latent)
            terms["entropy"] = config.entropy * losses.entropy_penalty(
                steps, inverse_temperature=config.entropy_sharpness
            )
        total = torch.stack(list(terms.values())).sum()
        return total, {name: term.detach() for name, term in terms.items()} | logged

    def _stop(self, num_scales: int, micro_batch: MicroBatch) -> int:
        """Draw the last scale that the batch is decoded from."""
        generator = micro_batch.shared_generator()
        if torch.rand((), generator=generator) < self.config.truncation:
            return int(torch.randint(max(1, num_scales - 1), (), generator=generator))
        return num_scales - 1

    def _adversarial(
        self,
        reconstruction: Float[Tensor, "b c H W"],
        images: Float[Tensor, "b c H W"],
        seen: Float[Tensor, ""],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the generator's and the discriminator's losses for a single backward pass.

        The generator's loss sees the discriminator's weights detached; the discriminator's sees a detached image.

        Args:
            reconstruction: Decoded images, which receive the generator's gradient.
            images: Original images.
            seen: Reconstruction loss, whose gradient scales an adaptive weight.

        Returns:
            The two losses and the weight of the generator's.
        """
        judge = self.model.discriminator
        assert judge is not None
        frozen = {name: parameter.detach() for name, parameter in judge.named_parameters()}
        generator = losses.generator_loss(functional_call(judge, frozen, (reconstruction,)))
        weight = torch.tensor(self.config.adversarial, device=reconstruction.device)
        if self.config.adversarial_adaptive:
            weight = weight * losses.adaptive_weight(seen, generator, self._last_layer())
        players = {
            "generator": weight * generator,
            "discriminator": losses.discriminator_loss(judge(images), judge(reconstruction.detach())),
        }
        return players, weight

    def _last_layer(self) -> nn.Parameter:
        """Return the trained weight that is nearest to the image."""
        tokenizer = self.model.tokenizer
        return (tokenizer.encoder if self.config.trained == "encoder" else tokenizer.decoder).conv_out.weight

    @torch.no_grad()
    def validate(self, model: nn.Module, context: DistributedContext) -> Metrics:
        """Measure the PSNR in dB when decoding the first k scales, and the bit entropy of each scale."""
        tokenizer = model.tokenizer
        assert isinstance(tokenizer, InfinityTokenizer)
        return measure_reconstruction(
            tokenizer, self.validation, self.config.schedules, perceptual=self.perceptual, context=context
        )


@torch.no_grad()
def bit_entropies(steps: Sequence[ScaleStep]) -> dict[str, Tensor]:
    """Compute each scale's bit entropy over a batch: 1 if balanced, 0 if constant. Small batches underestimate it."""
    return {
        f"bit_entropy/scale_{k}": binary_entropy(step.bits.float().mean(dim=(0, 2, 3))).mean()
        for k, step in enumerate(steps)
    }
