r"""A model of a few hundred million parameters on one 24 GB GPU, such as an RTX 4090 or 3090.

bitvar train recipes/single_gpu_24gb.py --activation-checkpointing --micro-batch 64 --data DATA --tokenizer TOKENIZER \
    --text-encoder ENCODER --out runs/361m
bitvar train recipes/single_gpu_24gb.py --recipe-arg size=940M --activation-checkpointing --micro-batch 16 \
    --data DATA --tokenizer TOKENIZER --text-encoder ENCODER --out runs/940m

All weights are trained. The backward pass recomputes activations, and each step's 256 samples are split into
micro-batches. `part_size` computes the largest micro-batch that `costs/training_memory.py` estimates to fit into
`AVAILABLE`. This excludes the frozen encoders, which also stay on the GPU: with a large text encoder, check the
remaining memory with `--fit`.

Estimated cost: 361M at 256 px takes 1.0 TFLOP a sample and 1.4 with the second forward pass. At 40 % of an RTX 4090's
165 TFLOP/s that is 49 samples a second, 73 hours for the 50,000 steps. Expect a first loss of 0.693, and a validation
loss above the paper's 0.451, which took 48 times as many samples. The learning rate and the number of steps are
starting points: this recipe has not been run here. To start from a trained model, use a tenth of the learning rate.
"""

from pathlib import Path
from runpy import run_path
from typing import Final

from bitvar.costs.training_memory import GIB, MemoryPlan, largest_batch
from bitvar.errors import UsageError
from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.training.expected_work import longest_schedule

BATCH_SIZE: Final = 256

AVAILABLE: Final = 21 * GIB
"""Memory of a 24 GB GPU that is left for tensors beside the driver, the display and fragmentation."""


def plan(size: str, pixels: int) -> MemoryPlan:
    """Plan the memory of one sample at the longest schedule."""
    stage = _stage(size, pixels)
    return MemoryPlan(stage.model, longest_schedule(stage), 1, activation_checkpointing=True)


def part_size(size: str, pixels: int) -> int:
    """Choose the micro-batch size: the largest power of two that fits, at most 64, which is enough to keep a GPU busy.

    Raises:
        UsageError: If not even one sample fits.
    """
    most = min(64, largest_batch(plan(size, pixels), AVAILABLE))
    if not most:
        raise UsageError(
            f"{size} at {pixels} px does not fit a 24 GB GPU.",
            "weights, gradients, moments and averages take 20 bytes per parameter, beside one sample's activations",
            "use a smaller size or fewer pixels, or train adapters",
        )
    return 2 ** (most.bit_length() - 1)


def recipe(size: str = "361M", pixels: int = 256) -> TransformerTraining:
    """Configure a run of one of the paper's sizes at 256, 512 or 1024 px. 361M and 940M fit at all three."""
    part_size(size, pixels)
    return TransformerTraining(
        model=_stage(size, pixels).model,
        optimization=OptimizationConfig(
            steps=50_000,
            batch_size=BATCH_SIZE,
            learning_rate=1e-4,
            warmup_steps=1000,
            ema_decay=0.9995,
            precision="bf16",
        ),
        intervals=IntervalConfig(log=50, validation=1000, sample=1000, save=500),
    )


def _stage(size: str, pixels: int) -> TransformerTraining:
    return run_path(str(Path(__file__).with_name("paper.py")))["recipe"](size, pixels)
