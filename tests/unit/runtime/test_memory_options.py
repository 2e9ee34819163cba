"""Options that save memory: sequential guidance, tiled decoding, and blocks that wait on the host."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.optimizations import choose
from bitvar.runtime.block_offload import BlockOffload, BlockPassage, PlainCopy, Transfer, place_around_blocks
from bitvar.runtime.split_guidance import SplitGuidance, copy_to
from bitvar.runtime.tiled_decode import TILE
from tests.unit.sampling.test_batch_invariance import rough_pipeline


@pytest.fixture
def pipe(tmp_path: Path) -> InfinityPipeline:
    return rough_pipeline(tmp_path)


def drawn(pipe: InfinityPipeline, *prompts: str, guidance: float | tuple[float, ...] = 2.0) -> list[Tensor]:
    seeds = list(range(len(prompts)))
    return list(pipe(list(prompts), seed=seeds, guidance_scale=guidance, output_type="bits").images)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_word_chooses_what_costs_time() -> None:
    assert {"sequential-guidance", "tiled-decode", "block-offload"}.isdisjoint(
        kind.name for device in ("cpu", "cuda") for kind in choose(["exact"], device)
    )
    with pytest.raises(UsageError, match="doesn't work on cpu"):
        choose(["block-offload"], "cpu")


@pytest.mark.parametrize("guidance", [2.0, (2.0, 2.0, 1.0), 1.0])
def test_sequential_guidance_draws_the_same_bits(pipe: InfinityPipeline, guidance: float | tuple[float, ...]) -> None:
    plain = drawn(pipe, "a red dog", "two cats", guidance=guidance)
    pipe.optimize("sequential-guidance")
    assert same(plain, drawn(pipe, "a red dog", "two cats", guidance=guidance))


def test_sequential_guidance_computes_half_of_the_rows(pipe: InfinityPipeline) -> None:
    rows: list[int] = []
    pipe.transformer.blocks[0].register_forward_hook(lambda block, inputs, output: rows.append(len(output)))
    drawn(pipe, "a red dog")
    assert set(rows) == {2}
    rows.clear()
    pipe.optimize("sequential-guidance")
    drawn(pipe, "a red dog")
    assert set(rows) == {1}


@pytest.mark.parametrize("guidance", [2.0, (2.0, 2.0, 1.0), 1.0])
def test_halves_on_two_copies_draw_the_same_bits(
    pipe: InfinityPipeline, guidance: float | tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two copies on a CPU stand in for two cards."""
    plain = drawn(pipe, "a red dog", "two cats", guidance=guidance)
    monkeypatch.setattr(SplitGuidance, "devices", ("cpu",))
    monkeypatch.setattr(SplitGuidance, "available", staticmethod(lambda: True))
    rows: list[int] = []
    pipe.optimize("exact", "split-guidance")
    pipe.transformer.blocks[0].register_forward_hook(lambda block, inputs, output: rows.append(len(output)))
    assert same(plain, drawn(pipe, "a red dog", "two cats", guidance=guidance))
    assert set(rows) == {1}, "the first copy computes one half"


def test_a_copy_for_a_second_card_shares_no_memory(pipe: InfinityPipeline) -> None:
    twin = copy_to(pipe.transformer, torch.device("cpu"))
    pairs = zip(pipe.transformer.named_parameters(), twin.named_parameters(), strict=True)
    assert all(a == b and torch.equal(p, q) and p.data_ptr() != q.data_ptr() for (a, p), (b, q) in pairs)


def test_tiled_decoding_gives_the_same_pixels_up_to_rounding(pipe: InfinityPipeline) -> None:
    plain = pipe("a red dog", seed=1, output_type="pt").images
    pipe.optimize("tiled-decode")
    assert pipe.tokenizer.tile == TILE
    for tile in (TILE, 8):  # one tile, and several
        pipe.tokenizer.tile = tile
        tiled = pipe(["a red dog", "a cat"], seed=[1, 2], output_type="pt").images
        torch.testing.assert_close(tiled[:1], plain, rtol=0, atol=1e-4)
    pipe.optimize("off")
    assert pipe.tokenizer.tile is None


class Spoiling(Transfer):
    """Copies like `PlainCopy`, but late: until `finish`, a buffer holds NaN."""

    def __init__(self) -> None:
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.copied = 0

    def host(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def start_copy(self, source: Tensor, target: Tensor) -> None:
        target.fill_(255)
        self.pending.append((source, target))
        self.copied += 1

    def finish(self) -> None:
        for source, target in self.pending:
            target.copy_(source)
        self.pending.clear()


def test_blocks_pass_through_two_buffers_with_the_same_bits(pipe: InfinityPipeline) -> None:
    plain, transfer = drawn(pipe, "a red dog"), Spoiling()
    blocks = list(pipe.transformer.blocks)
    passage = BlockPassage(blocks, transfer, torch.device("cpu"))
    seen: list[list[int]] = []
    blocks[1].register_forward_hook(lambda block, inputs, output: seen.append(passage.resident))
    assert passage.resident == []
    assert same(plain, drawn(pipe, "a red dog"))
    assert set(map(tuple, seen)) == {(1, 2)}, "the block that computes, and the next one"
    scales = len(plain)
    assert transfer.copied == len(blocks) * (scales + 1) + 1, "each block once a scale, and once for the text"
    passage.close()
    assert same(plain, drawn(pipe, "a red dog"))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_any_number_of_blocks_passes(tmp_path: Path, depth: int) -> None:
    pipe = rough_pipeline(tmp_path)
    pipe.transformer.blocks = pipe.transformer.blocks[:depth]
    object.__setattr__(pipe.transformer, "config", pipe.transformer.config.model_copy(update={"depth": depth}))
    plain = drawn(pipe, "a red dog")
    BlockPassage(list(pipe.transformer.blocks), Spoiling(), torch.device("cpu"))
    assert same(plain, drawn(pipe, "a red dog"))


def test_a_waiting_block_is_on_the_host(pipe: InfinityPipeline) -> None:
    first = pipe.transformer.blocks[0]
    before = first.fc1.weight.clone()
    passage = BlockPassage(list(pipe.transformer.blocks), PlainCopy(), torch.device("cpu"))
    on_host = first.fc1.weight.data_ptr()
    assert torch.equal(first.fc1.weight, before)
    passage.require(0)
    assert first.fc1.weight.data_ptr() != on_host
    passage.require(2)
    assert first.fc1.weight.data_ptr() != on_host, "the next one after the last is the first"
    passage.require(1)
    assert first.fc1.weight.data_ptr() == on_host


def test_changed_weights_are_kept(pipe: InfinityPipeline) -> None:
    offload = BlockOffload(pipe.transformer, pipe.tokenizer)
    offload.apply()
    drawn(pipe, "a red dog")
    for block in pipe.transformer.blocks:  # two of them are in a buffer
        block.fc1.weight.mul_(-0.5)
    wanted = [block.fc1.weight.clone() for block in pipe.transformer.blocks]
    offload.refresh()
    changed = drawn(pipe, "a red dog")
    offload.undo()
    assert all(torch.equal(block.fc1.weight, w) for block, w in zip(pipe.transformer.blocks, wanted, strict=True))
    assert same(changed, drawn(pipe, "a red dog"))


def test_threads_take_turns(pipe: InfinityPipeline) -> None:
    plain = drawn(pipe, "a red dog")
    offload = BlockOffload(pipe.transformer, pipe.tokenizer)
    offload.apply()
    pipe._optimizations.decoder = offload.decoder(pipe.transformer)
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(same(plain, drawn(pipe, "a red dog")))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_blocks_stay_behind_when_the_rest_is_placed(pipe: InfinityPipeline) -> None:
    place_around_blocks(pipe.transformer, torch.device("meta"))
    on_host = {name for name, p in pipe.transformer.named_parameters() if p.device.type == "cpu"}
    assert on_host == {name for name, _ in pipe.transformer.named_parameters() if name.startswith("blocks.")}
    assert pipe.transformer.device.type == "meta"


def test_a_model_is_loaded_around_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockOffload, "devices", ("cpu",))
    rough_pipeline(tmp_path).save_pretrained(tmp_path / "model")
    plain = InfinityPipeline.from_pretrained(tmp_path / "model", device="cpu", fast="off")
    pipe = InfinityPipeline.from_pretrained(tmp_path / "model", device="cpu", fast="block-offload")
    assert pipe.optimizations == ["block-offload"]
    assert same(drawn(plain, "a red dog"), drawn(pipe, "a red dog"))
