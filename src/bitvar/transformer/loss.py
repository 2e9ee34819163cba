"""The training loss: binary cross-entropy of every bit."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.scales import ScaleSchedule


def bit_losses(
    logits: Float[Tensor, "b l d 2"], targets: Bool[Tensor, "b l d"] | Float[Tensor, "b l d"]
) -> Float[Tensor, "b l"]:
    """Compute every token's cross-entropy, averaged over its bits, in fp32 nats: about ln 2 at initialisation.

    Args:
        logits: Logits of 0 and 1 for every bit.
        targets: The bits, or the probability of a 1 for each.
    """
    margin = (logits[..., 1] - logits[..., 0]).float()
    return F.binary_cross_entropy_with_logits(margin, targets.float(), reduction="none").mean(-1)


def token_weights(schedule: ScaleSchedule, *, reweighted: bool) -> Float[Tensor, " l"]:
    """Weight every token, summing to 1: equally, or by `sqrt(h_K w_K / (h_k w_k))`, which favours coarse scales."""
    lengths = torch.tensor(schedule.lengths, dtype=torch.float32)
    weights = (lengths[-1] / lengths).sqrt() if reweighted else torch.ones_like(lengths)
    per_token = weights[schedule.scale_index()]
    return per_token / per_token.sum()


def bitwise_loss(
    logits: Float[Tensor, "b l d 2"],
    bits: Bool[Tensor, "b l d"],
    schedule: ScaleSchedule,
    *,
    reweighted: bool = False,
) -> Float[Tensor, ""]:
    """Average the weighted token losses over the batch."""
    weights = token_weights(schedule, reweighted=reweighted).to(logits.device)
    return (bit_losses(logits, bits) @ weights).mean()
