"""Muon (Jordan et al., 2024), with AdamW for what is no hidden matrix.

It knows parameters and their groups, not models: who is hidden is decided in `optim`. `torch.optim.Muon` takes no
convolution and computes in bf16, which processors without bf16 instructions emulate slowly.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw as adamw_update

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: they lift small singular values fast, and leave every one between 0.7 and 1.2 or so."""

NUM_ITERATIONS = 5
MAX_STACKED = 1 << 22
"""Numbers in the matrices that are orthogonalised at once, at most, unless one has more."""

ADAMW_RMS = 0.2
"""Root mean square of AdamW's updates; ours are scaled to it, so learning rates carry over (arXiv 2502.16982)."""


def orthogonalize(matrices: Float[Tensor, "*n o i"]) -> Float[Tensor, "*n o i"]:
    """Nearly `U V^T` of each matrix's `U S V^T`, in fp32: every direction counts alike. Zero stays zero."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.float()
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def batches_of_one_shape(parameters: Sequence[Tensor], *, most: int = MAX_STACKED) -> Iterator[list[Tensor]]:
    """Parameters of one shape together, so many that they have at most `most` numbers, or one.

    Small matrices are orthogonalised together: on a GPU, launching the work takes longer than doing it.
    """
    alike: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        alike.setdefault(parameter.shape, []).append(parameter)
    for same in alike.values():
        count = max(1, most // same[0].numel())
        yield from (same[start : start + count] for start in range(0, len(same), count))


def decay_groups(parameters: Sequence[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Parameters by whether weight decay touches them: those of two or more axes, and the others; no empty group."""
    matrices, vectors = ([p for p in parameters if (p.ndim >= 2) == decayed] for decayed in (True, False))
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class Muon(Optimizer):
    """Hidden matrices step along their orthogonalised momentum, everything else along AdamW's.

    A matrix that ranks hold in shards is gathered and orthogonalised by each of them.

    Args:
        matrices: weights of hidden layers, by how many matrices are stacked in each: 3 for one that makes q, k and v,
            which are orthogonalised apart. A convolution's counts as a matrix of one row an output channel.
        others: embeddings, heads, biases, norms and scales.
        lr: Learning rate of both kinds.
        momentum: Nesterov momentum of the matrices' gradient.
        betas, weight_decay: AdamW's; the decay is decoupled, on parameters of two or more axes, in both parts.
    """

    def __init__(
        self,
        matrices: Mapping[int, Sequence[Tensor]],
        others: Sequence[Tensor],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        groups = [
            *({"params": list(p), "parts": parts, "weight_decay": weight_decay} for parts, p in matrices.items() if p),
            *(group | {"parts": 0} for group in decay_groups(others, weight_decay)),
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        assert closure is None, "closures are for optimisers that evaluate the loss themselves"
        for group in self.param_groups:
            present = [p for p in group["params"] if p.grad is not None]
            if group["parts"]:
                for alike in batches_of_one_shape(present):
                    self._step_matrices(alike, group)
            else:
                self._step_adamw(present, group)

    def _step_matrices(self, parameters: list[Tensor], group: dict) -> None:
        """One update of matrices of one shape."""
        directions = [self._direction(parameter, group["momentum"]) for parameter in parameters]
        wholes = [d.full_tensor() if isinstance(d, DTensor) else d for d in directions]
        parts = torch.stack([part for whole in wholes for part in whole.flatten(1).chunk(group["parts"])])
        rate = group["lr"] * ADAMW_RMS * math.sqrt(max(parts.shape[1:]))
        updates = orthogonalize(parts).reshape(len(parameters), *parameters[0].shape)
        for parameter, direction, update in zip(parameters, directions, updates, strict=True):
            own = update
            if isinstance(direction, DTensor):  # every rank has made all of it, and keeps its rows
                own = distribute_tensor(update, direction.device_mesh, direction.placements, src_data_rank=None)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(own, alpha=-rate)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """The averaged gradient, one step ahead of itself (Nesterov)."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        return gradient.lerp(state["momentum"].lerp_(gradient, 1 - momentum), momentum)

    def _step_adamw(self, parameters: list[Tensor], group: dict) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[p] for p in parameters]
        adamw_update(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )
