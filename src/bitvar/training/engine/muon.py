"""Muon (Jordan et al., 2024) for hidden matrices, with AdamW for all other parameters.

This module knows parameters and groups, not models: `optim` decides which matrices are hidden. We don't use
`torch.optim.Muon`, which rejects convolutions and computes in bf16 only, slow on processors without bf16 instructions.
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
"""Coefficients of the quintic Newton-Schulz iteration, which maps singular values to between about 0.7 and 1.2.

They raise small singular values fast.
"""

NUM_ITERATIONS = 5
MAX_STACKED = 1 << 22
"""Maximum number of elements in matrices orthogonalized together; a larger matrix is processed alone."""

ADAMW_RMS = 0.2
"""Typical RMS of AdamW's updates. Muon's are scaled to match it, so learning rates carry over (arXiv 2502.16982)."""


def orthogonalize(matrices: Float[Tensor, "*n o i"], *, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*n o i"]:
    """Return approximately `U V^T` for each matrix `U S V^T`, in fp32, so that every direction counts equally.

    A zero matrix stays zero.

    Args:
        matrices: Matrices of one shape.
        dtype: Precision of the products. What bf16 rounds is small beside the spread of singular values that remains.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.float()
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    x = x.to(dtype)
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


def batches_of_one_shape(parameters: Sequence[Tensor], *, max_elements: int = MAX_STACKED) -> Iterator[list[Tensor]]:
    """Yield batches of parameters of one shape, of at most `max_elements` elements or a single larger parameter.

    Small matrices are orthogonalized together because, on a GPU, launching their kernels takes longer than running
    them.

    Args:
        parameters: Parameters to batch.
        max_elements: Maximum number of elements in a batch of more than one parameter.
    """
    alike: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        alike.setdefault(parameter.shape, []).append(parameter)
    for same in alike.values():
        count = max(1, max_elements // same[0].numel())
        yield from (same[start : start + count] for start in range(0, len(same), count))


def decay_groups(parameters: Sequence[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into those with weight decay (two or more axes) and those without; empty groups are omitted."""
    matrices, vectors = ([p for p in parameters if (p.ndim >= 2) == decayed] for decayed in (True, False))
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class Muon(Optimizer):
    """Optimizer that moves hidden matrices along their orthogonalized momentum, and other parameters as AdamW does.

    A sharded matrix is gathered and orthogonalized on every rank.

    Args:
        matrices: Weights of hidden layers, keyed by the number of matrices that each stacks: 3 for one that produces
            q, k and v, which are orthogonalized separately. A convolution counts as a matrix with one row per output
            channel.
        others: Embeddings, heads, biases, norms and scales.
        lr: Learning rate of both kinds of parameters.
        momentum: Nesterov momentum of the matrices' gradients.
        betas: Betas of AdamW.
        weight_decay: Decoupled weight decay of both kinds of parameters, if they have two or more axes.
        dtype: Precision of the products that orthogonalize.
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
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._dtype = dtype
        groups = [
            *({"params": list(p), "parts": parts, "weight_decay": weight_decay} for parts, p in matrices.items() if p),
            *(group | {"parts": 0} for group in decay_groups(others, weight_decay)),
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        assert closure is None, "closures are for optimizers that evaluate the loss themselves"
        for group in self.param_groups:
            present = [p for p in group["params"] if p.grad is not None]
            if group["parts"]:
                for alike in batches_of_one_shape(present):
                    self._step_matrices(alike, group)
            else:
                self._step_adamw(present, group)

    def _step_matrices(self, parameters: list[Tensor], group: dict) -> None:
        """Update matrices of the same shape together."""
        directions = [self._direction(parameter, group["momentum"]) for parameter in parameters]
        wholes = [d.full_tensor() if isinstance(d, DTensor) else d for d in directions]
        parts = torch.stack([part for whole in wholes for part in whole.flatten(1).chunk(group["parts"])])
        rate = group["lr"] * ADAMW_RMS * math.sqrt(max(parts.shape[1:]))
        updates = orthogonalize(parts, dtype=self._dtype).reshape(len(parameters), *parameters[0].shape)
        for parameter, direction, update in zip(parameters, directions, updates, strict=True):
            own = update
            if isinstance(direction, DTensor):  # every rank computes all of it and keeps its rows
                own = distribute_tensor(update, direction.device_mesh, direction.placements, src_data_rank=None)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(own, alpha=-rate)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """Update the momentum of a parameter and return its Nesterov gradient."""
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
