"""Distributed training: a model sharded (FSDP2), replicated, or both. Only this file knows about process groups.

`DistributedContext()` is a single rank without a process group, for which every function here does nothing.
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
    """Two replicas of the same weights differ: a memory or computing fault."""


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that train together.

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
        """The mean over ranks of named numbers."""
        return {name: value / self.world for name, value in self.sum(values).items()}

    def sum(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """The sum over ranks of named numbers; every rank must have the same names in the same order."""
        if not values:
            return {}
        stacked = torch.stack([value.detach().cpu().double() for value in values.values()])
        if self.world > 1:
            dist.all_reduce(stacked)
        return dict(zip(values, stacked.tolist(), strict=True))

    def any(self, answer: bool, *, background: bool = False) -> bool:
        """Whether any rank says yes. All must ask, and none goes on before all have.

        Args:
            answer: Answer of this rank.
            background: Whether to ask from another thread, beside training.
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
    """Join the processes that a launcher started; MASTER_ADDR and MASTER_PORT say where they meet.

    Args:
        device: Device of this process.
        rank: Rank of this process.
        world: Number of ranks.
        shards: Number of ranks that share one replica of the model; None for all, 1 for a full replica on each.

    Raises:
        UsageError: if the ranks can't be divided so.
    """
    wanted = shards or world
    if world % wanted:
        why = f"each copy would be spread over {wanted} ranks, and {world} is no multiple of that"
        raise UsageError(f"{world} ranks can't hold whole copies.", why, "choose a divisor for --shards")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=_TIMEOUT)
    mesh = init_device_mesh(device.type, (world // wanted, wanted), mesh_dim_names=("copy", "shard"))
    return DistributedContext(rank, world, mesh, dist.new_group(backend="gloo", timeout=_TIMEOUT))


def disconnect() -> None:
    """Leave together, if joined; not after a failure, when others may be gone."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def distribute(
    model: nn.Module,
    units: Sequence[nn.Module],
    context: DistributedContext,
    *,
    precision: torch.dtype,
    device: torch.device,
) -> None:
    """Put a model on the device or spread it over the ranks' devices, in place, one unit after the other.

    In shards, each unit is gathered when it computes, and let go after.

    A model without units stays whole on every rank, and `average_gradients` keeps the copies alike. Units travel in
    `precision`; what lies outside them, the head among it, in fp32. Gradients are summed in fp32, weights stay fp32.
    """
    if context.mesh is None or not units:
        model.to(device)
        return
    # Logits are a view of what the head gives; nobody changes them in place, which is what PyTorch warns of.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = context.mesh if context.num_replicas > 1 else context.mesh["shard"]
    low = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    full = MixedPrecisionPolicy(cast_forward_inputs=False)
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=full if precision == torch.float32 else low)
    fully_shard(model, mesh=mesh, reshard_after_forward=True, mp_policy=full)


def average_gradients(parameters: Sequence[nn.Parameter], context: DistributedContext) -> None:
    """The mean of the gradients over ranks, where the model is whole on each; shards have theirs already."""
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
    """A tensor of which other ranks may hold parts, in one piece. All ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(model: nn.Module, build_model: Callable[[], nn.Module], context: DistributedContext) -> nn.Module | None:
    """The model as an ordinary one, on the main rank; None on others. All ranks must ask.

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
    """Compare all bits of tensors of which several ranks hold the same part.

    Raises:
        ReplicasDifferError: naming the ranks; the run can go on from its last checkpoint.
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
    # Groups see different parts, so one may be sound where another is not: all stop together.
    if context.any(min(counts) < len(everyone)):
        odd = [str(i) for i, count in enumerate(counts) if count < max(counts) or max(counts) == 1]
        found = f"copies {', '.join(odd)} of {len(everyone)} are the odd ones" if odd else "in another group of ranks"
        raise ReplicasDifferError(
            explain(
                "Copies of the same weights differ.",
                f"{found}: a memory or computing fault, or a kernel that is not deterministic",
                "start again: the last checkpoint was compared before it was written; if it returns, test that machine",
            )
        )


def _checksum(tensor: Tensor) -> Tensor:
    """A number that changes when any single bit of an fp32 tensor does: the sum of its words."""
    return tensor.contiguous().view(torch.int32).sum(dtype=torch.int64)
