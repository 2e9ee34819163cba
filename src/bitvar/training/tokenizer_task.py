"""Training the tokenizer: reconstruction, and what keeps its bits alive."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from bitvar import pyramid
from bitvar.data.samples import to_signed
from bitvar.nn.linear import channels_last
from bitvar.scales import Grid
from bitvar.tokenizer import InfinityTokenizer, losses
from bitvar.tokenizer.discriminator import PatchDiscriminator
from bitvar.training.config import TokenizerTraining
from bitvar.training.loop import Metrics, Work
from bitvar.training.parallel import Ranks
from bitvar.training.parts import Part

Perceptual = Callable[[Float[Tensor, "b c H W"], Float[Tensor, "b c H W"]], Float[Tensor, ""]]


class TokenizerModels(nn.Module):
    """The tokenizer and, if it has an adversary, the discriminator: one module, so one optimiser and one checkpoint."""

    def __init__(self, config: TokenizerTraining) -> None:
        super().__init__()
        self.tokenizer = InfinityTokenizer(config.model)
        channels = config.model.image_channels
        self.discriminator = PatchDiscriminator(channels=channels) if config.adversarial > 0 else None


class TokenizerTask:
    """The step of a tokenizer run. Implements `loop.Task`.

    Args:
        config: losses and sizes.
        images: the training pictures.
        validation: held-out pictures.
        perceptual: a distance between pictures in [-1, 1], required when its weight is not 0.
        device: where the model is and computes; pictures stay on the CPU, a batch at a time goes there.
    """

    def __init__(
        self,
        config: TokenizerTraining,
        *,
        images: UInt8[Tensor, "n c H W"],
        validation: UInt8[Tensor, "m c H W"],
        perceptual: Perceptual | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (a constant)
    ) -> None:
        if config.perceptual > 0 and perceptual is None:
            raise ValueError("a perceptual weight needs a perceptual network; pass one, or set the weight to 0")
        torch.manual_seed(config.optimization.seed)
        self.config, self.device = config, device
        self.model = channels_last(TokenizerModels(config)).to(device)
        self.images, self.validation = images, validation
        self.counts = (len(images),)
        self.units: Sequence[nn.Module] = ()  # small enough to be whole on every rank, and called in pieces
        self.perceptual = perceptual
        self.dtype = torch.bfloat16 if config.optimization.precision == "bf16" else torch.float32

    def fresh(self) -> nn.Module:
        return TokenizerModels(self.config)

    def batches(self, parts: Iterable[Part]) -> Iterator[Part]:
        return iter(parts)

    def work(self, bucket: int) -> Work:
        return Work(0, 0.0)

    def loss(self, batch: Part) -> tuple[Tensor, dict[str, Tensor]]:
        config, tokenizer = self.config, self.model.tokenizer
        generator = batch.shared_generator()
        images = self.images[batch.samples].to(self.model.tokenizer.device)
        images = to_signed(images).contiguous(memory_format=torch.channels_last)
        features = tokenizer.encoder(images.to(self.dtype)).float()
        steps = list(pyramid.encode(features, config.grids))
        latent = steps[-1].latent
        if torch.rand((), generator=generator) < config.truncation:
            stop = int(torch.randint(max(1, len(steps) - 1), (), generator=generator))
            latent = steps[stop].latent
        reconstruction = tokenizer.decoder(latent.to(self.dtype)).float()
        terms = {
            "reconstruction": losses.reconstruction_loss(reconstruction, images),
            "commitment": config.commitment * losses.commitment_loss(features, steps[-1].latent),
            "entropy": config.entropy * losses.entropy_penalty(steps, inverse_temperature=config.entropy_sharpness),
        }
        if self.perceptual is not None and config.perceptual > 0:
            terms["perceptual"] = config.perceptual * self.perceptual(reconstruction, images)
        if self.model.discriminator is not None and batch.step >= config.adversarial_start:
            terms |= self._adversarial(reconstruction, images)
        total = torch.stack(list(terms.values())).sum()
        return total, {name: term.detach() for name, term in terms.items()}

    def _adversarial(
        self, reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]
    ) -> dict[str, Tensor]:
        """Both players' losses in one backward: the decoder sees a frozen judge, the judge a detached picture."""
        judge = self.model.discriminator
        assert judge is not None
        frozen = {name: parameter.detach() for name, parameter in judge.named_parameters()}
        fooled = functional_call(judge, frozen, (reconstruction,))
        return {
            "generator": self.config.adversarial * losses.generator_loss(fooled),
            "discriminator": losses.discriminator_loss(judge(images), judge(reconstruction.detach())),
        }

    @torch.no_grad()
    def validate(self, model: nn.Module, ranks: Ranks) -> Metrics:
        """PSNR in dB when decoded from the first k scales, and how evenly each scale uses its bits."""
        tokenizer = model.tokenizer
        assert isinstance(tokenizer, InfinityTokenizer)
        return measure_reconstruction(tokenizer, self.validation, self.config.grids)


@torch.no_grad()
def measure_reconstruction(
    tokenizer: InfinityTokenizer, pictures: UInt8[Tensor, "m c H W"], grids: Sequence[Grid]
) -> Metrics:
    """Mean PSNR in dB when decoded from the first k scales, and how evenly each scale uses its bits (1: evenly)."""
    errors = torch.zeros(len(grids))
    ones = [torch.zeros(tokenizer.config.bits) for _ in grids]
    for chunk in pictures.split(64):
        images = to_signed(chunk.to(tokenizer.device))
        for k, scale in enumerate(pyramid.encode(tokenizer.features(images), grids)):
            picture = tokenizer.decode(scale.latent)
            errors[k] += ((picture - images) / 2).square().mean(dim=(1, 2, 3)).log10().sum().cpu()
            ones[k] += scale.bits.float().mean(dim=(2, 3)).sum(dim=0).cpu()
    psnr = -10 * errors / len(pictures)
    metrics = {f"psnr/scale_{k}": value.item() for k, value in enumerate(psnr)} | {"psnr": psnr[-1].item()}
    for k, count in enumerate(ones):
        p = (count / len(pictures)).clamp(1e-6, 1 - 1e-6)
        entropy = -(p * p.log2() + (1 - p) * (1 - p).log2())
        metrics[f"bit_entropy/scale_{k}"] = entropy.mean().item()
    return metrics
