"""One training step: the micro-batches, gradient clipping, the optimizer update and the averaged weights."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bitvar.errors import explain
from bitvar.training.config import OptimizationConfig
from bitvar.training.engine import distributed
from bitvar.training.engine.checkpoint import TrainState
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.optim import learning_rate, trained_parameters

MAX_SKIPPED = 10
"""Maximum number of updates in a row that a run with `not_finite="skip"` leaves out before it stops."""

Loss = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]


class TrainingDivergedError(RuntimeError):
    """The loss or a gradient is not finite; the update was not made."""


class Updater:
    """Runner of training steps.

    Args:
        state: State to update.
        loss: Returns the mean loss of a micro-batch, and metrics to log.
        config: Optimization settings.
        num_micro_batches: Micro-batches in a step on this rank.
        context: Distributed context.
        log: Receives a line of text.
    """

    def __init__(
        self,
        state: TrainState,
        loss: Loss,
        config: OptimizationConfig,
        *,
        num_micro_batches: int = 1,
        context: DistributedContext | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.state, self.loss, self.config = state, loss, config
        self.num_micro_batches, self.context, self.log = num_micro_batches, context or DistributedContext(), log
        self.skipped = 0  # in a row
        self.left_out = 0  # in all

    def step(self, batches: Iterator[Any]) -> dict[str, Tensor]:
        """Make one step: take this rank's micro-batches from `batches` and update the weights.

        Returns:
            Metrics to log, averaged over the micro-batches.

        Raises:
            TrainingDivergedError: If the loss or the gradient is not finite on any rank. No rank has updated.
        """
        state, config = self.state, self.config
        state.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for _ in range(self.num_micro_batches):
            loss, logged = self.loss(next(batches))
            (loss / self.num_micro_batches).backward()
            for name, value in {"loss": loss.detach(), **logged}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value / self.num_micro_batches
        parameters = list(trained_parameters(state.model).values())
        distributed.average_gradients(parameters, self.context)
        norm = distributed.full_tensor(nn.utils.clip_grad_norm_(parameters, config.clip))
        rate = learning_rate(state.step, config)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        if self._may_move(sums["loss"], norm):
            state.whole = False
            state.optimizer.step()
            state.ema.update(state.model, state.step)
        state.step += 1
        state.whole = True
        sums |= {"gradient_norm": norm, "learning_rate": torch.tensor(rate)}
        if config.not_finite == "skip":
            sums["skipped"] = torch.tensor(float(self.left_out))
        return sums

    def _may_move(self, loss: Tensor, norm: Tensor) -> bool:
        """Whether every rank may update its weights, which requires a finite loss and gradient on all ranks.

        Raises:
            TrainingDivergedError: If they may not, and the configuration does not allow skipping this update.
        """
        config, step = self.config, self.state.step
        finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        if not self.context.any(not finite):
            self.skipped = 0
            return True
        self.skipped += 1
        self.left_out += 1
        found = f"Loss {loss.item()} and gradient norm {norm.item()} at step {step}: not finite."
        if config.not_finite == "stop" or self.skipped > MAX_SKIPPED:
            raise TrainingDivergedError(
                explain(
                    found if config.not_finite == "stop" else f"{found} {MAX_SKIPPED} updates before it were left out.",
                    "the learning rate is too high, or a sample is broken",
                    "lower the learning rate; the update was not made and the last checkpoint is sound",
                )
            )
        self.log(f"{found} The update was left out.")
        return False
