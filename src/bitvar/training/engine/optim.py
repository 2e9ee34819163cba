"""The optimizer, its learning-rate schedule, and the averaged weights."""

import math

import torch
from torch import nn

from bitvar.nn.linear import Conv2d, Linear
from bitvar.runtime.placement import DTYPES
from bitvar.training.config import OptimizationConfig
from bitvar.training.engine.muon import Muon, decay_groups

EDGES = frozenset({"conv_in", "conv_out", "input_proj", "head", "shared_modulation", "head_modulation"})
"""Names of the models' input and output layers, which Muon leaves to AdamW because one side is not a hidden space.

`skip`, between pixels and bits, is not among them: it is as linear as a hidden layer, and the tokenizer `fine` was
trained with `skip` under Muon.
"""

STACKED = {"qkv": 3, "kv": 2}
"""Number of matrices in the weight of layers that stack several along the output axis, by layer name."""


def build_optimizer(model: nn.Module, config: OptimizationConfig) -> torch.optim.Optimizer:
    """Build the configured optimizer. Weight decay applies to matrices only, not to norms, biases or scales."""
    trained = list(trained_parameters(model).values())
    if config.optimizer == "muon":
        matrices = hidden_matrices(model)
        hidden = {id(p) for same in matrices.values() for p in same}
        return Muon(
            matrices,
            [p for p in trained if id(p) not in hidden],
            lr=config.learning_rate,
            momentum=config.momentum,
            betas=config.betas,
            weight_decay=config.weight_decay,
            dtype=DTYPES[config.muon_precision],
        )
    groups = decay_groups(trained, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def hidden_matrices(model: nn.Module) -> dict[int, list[nn.Parameter]]:
    """Collect the weights of hidden linear layers and convolutions, keyed by the number of matrices each one stacks."""
    found: dict[int, list[nn.Parameter]] = {}
    for path, module in model.named_modules():
        name = path.rsplit(".", 1)[-1]
        if isinstance(module, Linear | Conv2d) and name not in EDGES and module.weight.requires_grad:
            found.setdefault(STACKED.get(name, 1), []).append(module.weight)
    return found


def learning_rate(step: int, config: OptimizationConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to `final_learning_rate` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    floor = config.final_learning_rate
    return config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Ema:
    """Exponential moving averages of a model's trained parameters, in fp32 and sharded like the parameters.

    The decay is lower in the first steps, so that the averages forget the initial weights faster.

    Args:
        model: Model whose weights are averaged.
        decay: Decay per step, once the first steps are over.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in trained_parameters(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the averages towards the weights of `model` after optimizer step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            list(self.tensors.values()), list(trained_parameters(model).values()), 1 - decay
        )

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Swap the averages with the model's weights. A second call restores both."""
        for name, parameter in trained_parameters(model).items():
            own = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(own)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
