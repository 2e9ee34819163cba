"""Several ranks make the model that one makes (docs/reliability.md, D). Processes on this machine, over gloo."""

import logging
from pathlib import Path

import pytest
from torch import Tensor

from bitvar.errors import UsageError
from bitvar.training.engine import loop
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.shards import ShardedTensors
from bitvar.weights.digests import verify_folder
from tests.support.ranks import config, together, train_alone
from tests.unit.training.test_training import metrics, task_for

LOG = logging.getLogger(__name__)
LOSS, WEIGHTS = 1e-6, 1e-5
"""How far ranks may be apart: in every step's loss, and in any weight, average or moment after 20 steps."""


def tensors(folder: Path, step: int = 20) -> dict[str, Tensor]:
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    verify_folder(checkpoint)
    groups = [ShardedTensors(checkpoint, name) for name in ("model", "ema", "optimizer")]
    return {f"{group.group}/{name}": group.full_tensor(name) for group in groups for name in group.names}


def assert_close(one: Path, other: Path, *, loss: float = LOSS, weights: float = WEIGHTS) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    apart = {name: (ours[name] - theirs[name]).abs().max().item() for name in ours}
    lines = list(zip(metrics(one), metrics(other), strict=True))
    losses = max(abs(a["loss"] - b["loss"]) for a, b in lines)
    LOG.info("apart: %.1e in loss, %.1e in weights, averages and moments", losses, max(apart.values()))
    assert max(apart.values()) <= weights, max(apart.items(), key=lambda item: item[1])
    assert all(a["step"] == b["step"] and a["phase"] == b["phase"] for a, b in lines)
    assert losses <= loss


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that one ordinary process makes: this one, which has PyTorch loaded already."""
    folder = tmp_path_factory.mktemp("alone")
    train_alone(0, 1, str(folder))
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    together(2, "train_shards", folder)
    return folder


def test_one_rank_in_shards_is_the_plain_model(alone: Path, tmp_path: Path) -> None:
    """D1: exactly."""
    together(1, "train_shards", tmp_path)
    assert_close(tmp_path, alone, loss=0.0, weights=0.0)


def test_two_ranks_make_the_same_model(alone: Path, pair: Path) -> None:
    """D2, with every rank writing its own part of the checkpoints and the averaged model drawn by one."""
    assert_close(pair, alone)
    names = {path.name for path in (pair / "checkpoints" / "step-00000020").iterdir()}
    assert {f"{group}-0000{i}-of-00002.safetensors" for group in ("model", "ema", "optimizer") for i in (1, 2)} < names
    ours, theirs = (float((f / "samples" / "step-00000020.png").read_text()) for f in (pair, alone))
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_an_optimiser_step_in_parts_is_the_same(alone: Path, tmp_path: Path) -> None:
    """D5: 4 x 2 samples, or 8."""
    train_alone(0, 1, str(tmp_path), "2")
    assert_close(tmp_path, alone, weights=1e-6)


def test_a_flipped_bit_in_a_copy_is_found(tmp_path: Path) -> None:
    """D6: 10 of 10, by every rank, at the first comparison."""
    for out in together(2, "flip_a_bit", tmp_path):
        assert out.count("found Replicas of the same weights differ.") == 10


@pytest.mark.slow
def test_four_ranks_make_the_same_model(alone: Path, tmp_path: Path) -> None:
    """D2 with four ranks; two copies in two shards each; and two whole copies."""
    for world, shards in ((4, 0), (4, 2), (2, 1)):
        folder = tmp_path / f"{world}-{shards}"
        together(world, "train_shards", folder, shards)
        assert_close(folder, alone)


@pytest.mark.slow
def test_a_run_may_change_its_number_of_ranks(alone: Path, tmp_path: Path) -> None:
    """D3: 2, then 1, 4 and 2 again, five steps each; weights, averages and both moments."""
    for world, until in ((2, 5), (1, 10), (4, 15), (2, 20)):
        together(world, "train_shards", tmp_path, 0, until)
    assert_close(tmp_path, alone)


@pytest.mark.slow
def test_resuming_with_as_many_ranks_is_exact(pair: Path, tmp_path: Path) -> None:
    """D4."""
    together(2, "train_shards", tmp_path, 0, 7)
    together(2, "train_shards", tmp_path)
    assert_close(tmp_path, pair, loss=0.0, weights=0.0)


@pytest.mark.slow
def test_muon_in_shards_is_muon(tmp_path: Path) -> None:
    together(1, "train_alone", tmp_path / "1", 0, "muon")
    together(2, "train_muon", tmp_path / "2")
    assert_close(tmp_path / "2", tmp_path / "1")


@pytest.mark.slow
def test_adapters_train_in_shards(tmp_path: Path) -> None:
    for world in (1, 2):
        together(world, "train_adapters", tmp_path / str(world))
    assert_close(tmp_path / "2", tmp_path / "1")
    assert all(".lora_" in name for name in tensors(tmp_path / "2"))


@pytest.mark.slow
def test_a_tokenizer_trains_on_two_ranks(tmp_path: Path) -> None:
    for world in (1, 2):
        together(world, "train_copies", tmp_path / str(world))
    ours, theirs = tensors(tmp_path / "2", 10), tensors(tmp_path / "1", 10)
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) <= WEIGHTS


def test_ranks_that_can_t_share_a_batch_are_refused(tmp_path: Path) -> None:
    made = config()
    for world, micro_batch_size in ((3, None), (2, 3), (1, 5)):
        run = loop.TrainerConfig(
            tmp_path,
            made.dump(),
            made.optimization,
            made.intervals,
            context=DistributedContext(world=world),
            micro_batch_size=micro_batch_size,
        )
        with pytest.raises(UsageError, match="can't share a batch of 8"):
            loop.train(task_for(made), run)
