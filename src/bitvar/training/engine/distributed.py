"""Distributed training with a sharded model (FSDP2), a replicated one, or both. Only this file knows process groups.

`DistributedContext()` is a single rank without a process group, for which no function here communicates.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from bitvar.errors import UsageError, explain

_TIMEOUT = timedelta(minutes=30)


class ReplicasDifferError(RuntimeError):
    """Two replicas of the same weights differ, because of a memory or computing fault."""


@dataclass(frozen=True)
class DistributedContext:
    """The place of this process among the processes that train together.

    Attributes:
        rank: Rank of this process.
        world: Number of ranks.
        mesh: Device mesh (replicas, shards); None for a single process.
        background: Process group for work beside training, such as saving.
    """

    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None
    background: Any = field(default=None, repr=False)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def num_replicas(self) -> int:
        return 1 if self.mesh is None else self.mesh.size(0)

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Average named scalars over the ranks. Every rank must pass the same names in the same order."""
        return {name: value / self.world for name, value in self.sum(values).items()}

    def sum(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Sum named scalars over the ranks. Every rank must pass the same names in the same order."""
        if not values:
            return {}
        stacked = torch.stack([value.detach().cpu().double() for value in values.values()])
        if self.world > 1:
            dist.all_reduce(stacked)
        return dict(zip(values, stacked.tolist(), strict=True))

    def any(self, answer: bool, *, background: bool = False) -> bool:
        """Whether the answer is true on any rank. All ranks must call this, and each waits for the others.

        Args:
            answer: Answer of this rank.
            background: Whether to use the background process group, for a call from another thread.
        """
        if self.world == 1:
            return answer
        total = torch.tensor(int(answer))
        dist.all_reduce(total, group=self.background if background else None)
        return int(total) > 0

    def broadcast_from_main(self, text: str) -> str:
        """Return the main rank's text on every rank."""
        if self.world == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


def connect(device: torch.device, *, rank: int, world: int, shards: int | None = None) -> DistributedContext:
    """Join the process group of a launcher, at the address in MASTER_ADDR and MASTER_PORT.

    Args:
        device: Device of this process.
        rank: Rank of this process.
        world: Number of ranks.
        shards: Number of ranks that share one replica of the model; None for all, 1 for a full replica on each.

    Raises:
        UsageError: If the number of ranks is not a multiple of `shards`.
    """
    wanted = shards or world
    if world % wanted:
        why = f"each replica is spread over {wanted} ranks, and {world} is not a multiple of that"
        raise UsageError(f"{world} ranks can't hold whole replicas.", why, f"choose a divisor of {world} for --shards")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=_TIMEOUT)
    mesh = init_device_mesh(device.type, (world // wanted, wanted), mesh_dim_names=("copy", "shard"))
    return DistributedContext(rank, world, mesh, dist.new_group(backend="gloo", timeout=_TIMEOUT))


def disconnect() -> None:
    """Wait for all ranks and leave the process group, if any. Don't call this after a failure: ranks may be gone."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def distribute(
    model: nn.Module,
    fsdp_units: Sequence[nn.Module],
    context: DistributedContext,
    *,
    precision: torch.dtype,
    device: torch.device,
) -> None:
    """Move a model to the device, or shard it over the ranks' devices, in place and one unit at a time.

    Each sharded unit is gathered before it computes and freed afterwards. A model without units stays unsharded on
    every rank, and `average_gradients` keeps its replicas equal. Units are gathered in `precision`; modules outside the
    units, such as the head, in fp32. Weights and gradient reduction stay in fp32.

    Args:
        model: Model to distribute.
        fsdp_units: Modules to shard and gather one by one; none to keep the model unsharded.
        context: Distributed context.
        precision: Dtype in which units are gathered.
        device: Device of this process.
    """
    if context.mesh is None or not fsdp_units:
        model.to(device)
        return
    # PyTorch warns about in-place changes to a view: the logits are a view of the head's output, but never changed.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = context.mesh if context.num_replicas > 1 else context.mesh["shard"]
    low = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    full = MixedPrecisionPolicy(cast_forward_inputs=False)
    for unit in fsdp_units:
        fully_shard(unit, mesh=mesh, mp_policy=full if precision == torch.float32 else low)
    fully_shard(model, mesh=mesh, reshard_after_forward=True, mp_policy=full)


def average_gradients(parameters: Sequence[nn.Parameter], context: DistributedContext) -> None:
    """Average the gradients of unsharded parameters over the ranks, in place; FSDP has averaged the sharded ones."""
    if context.world == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p, DTensor)]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= context.world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a possibly sharded one. All ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(model: nn.Module, build_model: Callable[[], nn.Module], context: DistributedContext) -> nn.Module | None:
    """Return the unsharded model on the main rank, and None on the others. All ranks must call this.

    Args:
        model: Model to gather; an unsharded one is returned as it is.
        build_model: Builds an unsharded model of the same sizes.
        context: Distributed context.
    """
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        return model if context.is_main else None
    target = build_model() if context.is_main else None
    into = dict(target.named_parameters()) if target is not None else {}
    for name, parameter in model.named_parameters():
        full = full_tensor(parameter)
        if target is not None:
            into[name].copy_(full)
    return target


@torch.no_grad()
def require_equal_replicas(tensors: Sequence[Tensor], context: DistributedContext) -> None:
    """Raise an error if replicas of the same tensors differ in any bit. All ranks must call this.

    Args:
        tensors: Tensors to compare, sharded or not.
        context: Distributed context.

    Raises:
        ReplicasDifferError: If replicas differ. It names them; the run can resume from its last checkpoint.
    """
    if context.mesh is None or context.world == 1:
        return
    sharded = any(isinstance(tensor, DTensor) for tensor in tensors)
    if sharded and context.num_replicas == 1:
        return
    sums = torch.stack([_checksum(t.to_local() if isinstance(t, DTensor) else t) for t in tensors])
    everyone = [torch.empty_like(sums) for _ in range(context.num_replicas if sharded else context.world)]
    dist.all_gather(everyone, sums, group=context.mesh.get_group(0) if sharded else None)
    counts = [sum(torch.equal(one, other) for other in everyone) for one in everyone]
    # Each group compares different shards, so only some groups may see the fault: all ranks stop together.
    if context.any(min(counts) < len(everyone)):
        odd = [str(i) for i, count in enumerate(counts) if count < max(counts) or max(counts) == 1]
        found = f"odd ones out: {', '.join(odd)} of {len(everyone)}" if odd else "in another group of ranks"
        raise ReplicasDifferError(
            explain(
                "Replicas of the same weights differ.",
                f"{found}; a memory or computing fault, or a nondeterministic kernel",
                "restart: the last checkpoint was compared before it was written; if this recurs, test that machine",
            )
        )


def _checksum(tensor: Tensor) -> Tensor:
    """Sum the 32-bit words of an fp32 tensor, so that flipping any single bit changes the result."""
    return tensor.contiguous().view(torch.int32).sum(dtype=torch.int64)
