"""Several processes that train together on the CPU, for tests: each runs a function of this file by name."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bitvar.lora.layers import LoraSettings, adapter_tensors
from bitvar.training.config import IntervalConfig
from bitvar.training.engine import distributed, loop
from bitvar.training.engine.distributed import DistributedContext, ReplicasDifferError
from bitvar.training.engine.supervisor import HEARTBEAT, free_port
from tests.unit.training.test_training import optimization, task_for, tokenizer_training, transformer_training

ROOT = Path(__file__).parents[2]
SECONDS = 240


def launch(world: int, name: str, *arguments: Any) -> list[subprocess.Popen[str]]:
    """Start `world` processes that run function `name` of this file as ranks."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    code = "import json, sys; from tests.support import ranks; ranks.work(*json.loads(sys.argv[1]))"
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, json.dumps([rank, world, name, [str(a) for a in arguments]])],
            cwd=ROOT, env=os.environ | meeting, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip


def together(world: int, name: str, *arguments: Any) -> list[str]:
    """Run function `name` on `world` ranks; what each printed."""
    processes = launch(world, name, *arguments)
    try:
        outputs = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [out for out, _ in outputs]


def work(rank: int, world: int, name: str, arguments: list[str]) -> None:
    torch.set_num_threads(1)
    globals()[name](rank, world, *arguments)
    distributed.disconnect()
    sys.stdout.flush()
    os._exit(0)  # as the command does


def config(**changes: Any) -> Any:
    intervals = IntervalConfig(log=1, validation=10, sample=10, save=5, keep=9)
    return transformer_training(
        optimization=optimization(steps=20, batch_size=8, **changes), intervals=intervals, condition_dropout=0.3
    )


def train_alone(rank: int, world: int, folder: str, micro_batch_size: str = "0", optimizer: str = "adamw") -> None:
    """Train the toy transformer as a plain process does."""
    train(
        config(optimizer=optimizer), Path(folder), DistributedContext(), micro_batch_size=int(micro_batch_size) or None
    )


def train_muon(rank: int, world: int, folder: str) -> None:
    """Train it in shards with Muon."""
    context = distributed.connect(torch.device("cpu"), rank=rank, world=world)
    train(config(optimizer="muon"), Path(folder), context)


def train_shards(
    rank: int, world: int, folder: str, shards: str = "0", until: str = "20", micro_batch_size: str = "0"
) -> None:
    """Train the toy transformer; stop after step `until`, as a cluster that takes its machines back does."""
    context = distributed.connect(torch.device("cpu"), rank=rank, world=world, shards=int(shards) or None)
    train(config(), Path(folder), context, until=int(until), micro_batch_size=int(micro_batch_size) or None)


def train_adapters(rank: int, world: int, folder: str) -> None:
    """Train adapters of a toy transformer, in shards if there are several ranks."""
    context = distributed.connect(torch.device("cpu"), rank=rank, world=world) if world > 1 else DistributedContext()
    made = config().model_copy(update={"lora": LoraSettings(rank=2)})
    task = task_for(made)
    task.adapt()
    run = loop.TrainerConfig(
        Path(folder), made.dump(), made.optimization, made.intervals, base_sha256="base", context=context
    )
    model = loop.train(task, run)
    assert (model is not None) == context.is_main
    if model is not None:
        assert set(adapter_tensors(model))


def train_copies(rank: int, world: int, folder: str) -> None:
    """Train a toy tokenizer, whole on every rank."""
    settings = optimization(steps=10, batch_size=4)
    made = tokenizer_training(optimization=settings, entropy=0.0, intervals=IntervalConfig(log=1, save=5))
    train(made, Path(folder), distributed.connect(torch.device("cpu"), rank=rank, world=world))


def train(
    made: Any,
    folder: Path,
    context: DistributedContext,
    *,
    until: int | None = None,
    micro_batch_size: int | None = None,
) -> None:
    seen: list[str] = []

    def sample(model: torch.nn.Module, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(sum(p.double().sum().item() for p in model.parameters())))

    run = loop.TrainerConfig(
        folder, made.dump(), made.optimization, made.intervals, context=context, micro_batch_size=micro_batch_size,
        sample=sample,
        stop=lambda: until is not None and any(line.startswith(f"step {until}/") for line in seen),
        log=seen.append,
    )  # fmt: skip
    try:
        model = loop.train(task_for(made), run)
    except loop.TrainingStoppedError:
        return
    assert (model is not None) == context.is_main


def flip_a_bit(rank: int, world: int, folder: str) -> None:
    """Ten times: one bit of one copy flips, and the next comparison says so on every rank."""
    context = distributed.connect(torch.device("cpu"), rank=rank, world=world, shards=1)
    task = task_for(config())
    distributed.distribute(task.model, task.fsdp_units, context, precision=torch.float32, device=torch.device("cpu"))
    parameters = list(task.model.parameters())
    distributed.require_equal_replicas(parameters, context)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        which, bit, victim = (int(torch.randint(n, (), generator=generator)) for n in (len(parameters), 32, world))
        local = parameters[which].to_local().view(-1).view(torch.int32)
        place = int(torch.randint(len(local), (), generator=generator))
        mask = torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
        if rank == victim:
            local[place] ^= mask
        try:
            distributed.require_equal_replicas(parameters, context)
        except ReplicasDifferError as error:
            print("found", str(error).splitlines()[0])  # noqa: T201  (the test reads it)
        if rank == victim:
            local[place] ^= mask
    distributed.require_equal_replicas(parameters, context)


def supervised(folder: str) -> None:
    """A run of 40 steps as a supervisor starts it, alone or as a rank."""
    torch.set_num_threads(1)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    (Path(folder) / f"pid-{rank}").write_text(str(os.getpid()))
    context = distributed.connect(torch.device("cpu"), rank=rank, world=world) if world > 1 else DistributedContext()
    slowly = time.sleep  # a step takes milliseconds; whoever disturbs the run needs some
    train_forty_steps(Path(folder), context, heartbeat=lambda: (Path(os.environ[HEARTBEAT]).touch(), slowly(0.05))[0])
    distributed.disconnect()
    os._exit(0)  # as the command does


def train_forty_steps(folder: Path, context: DistributedContext, **options: Any) -> None:
    """The run of `supervised`, without a supervisor."""
    intervals = IntervalConfig(log=1, validation=20, sample=100, save=5, keep=2)
    made = transformer_training(optimization=optimization(steps=40, batch_size=4), intervals=intervals)
    run = loop.TrainerConfig(folder, made.dump(), made.optimization, made.intervals, context=context, **options)
    loop.train(task_for(made), run)
