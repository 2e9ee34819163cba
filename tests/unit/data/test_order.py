"""The order of samples: a function of (seed, step), whatever the ranks, workers, micro-batches and resuming."""

from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.data.captions import NUM_DRAWS, CaptionChoice
from bitvar.data.order import SampleOrder, permute, share
from bitvar.training.engine.microbatch import MicroBatch, Purpose, draw_uniform, micro_batches_of


class Names(torch.utils.data.Dataset[list[tuple[int, int]]]):
    """What a worker would load of a micro-batch: here only its identity."""

    def __getitem__(self, micro_batch: MicroBatch) -> list[tuple[int, int]]:
        return [(micro_batch.bucket, int(i)) for i in micro_batch.samples]

    def __len__(self) -> int:
        raise NotImplementedError


def loaded(order: SampleOrder, steps: range, *, workers: int, ranks: int, micro_batch_size: int | None) -> list:
    """The samples of each step in order, as `ranks` loaders of `workers` processes give them."""
    made = []
    for rank in range(ranks):
        micro_batches = list(
            micro_batches_of(order, steps, rank=rank, num_ranks=ranks, micro_batch_size=micro_batch_size)
        )
        loader = torch.utils.data.DataLoader(
            Names(),
            sampler=cast("Any", micro_batches),
            batch_size=None,
            num_workers=workers,
            collate_fn=list,
        )
        by_step: dict[int, list] = {step: [] for step in steps}
        for micro_batch, names in zip(micro_batches, loader, strict=True):
            by_step[micro_batch.step] += names
        made.append(by_step)
    return [[name for by_step in made for name in by_step[step]] for step in steps]


FEW = [(0, 1), (0, 4), (1, 2), (2, 1), (4, 1)]
ALL = [(workers, ranks) for workers in (0, 1, 2, 4) for ranks in (1, 2, 4)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("pairs", [FEW, pytest.param(ALL, marks=pytest.mark.slow)], ids=["few", "all"])
def test_the_order_is_the_same_for_any_workers_and_ranks(pairs: list[tuple[int, int]]) -> None:
    """C4: 10,000 samples, three epochs, workers {0, 1, 2, 4} x ranks {1, 2, 4}."""
    order = SampleOrder((10_000,), 1000, 7)
    steps = range(30)
    expected = [[(0, int(i)) for i in order.at(step).samples] for step in steps]
    for epoch in range(3):
        seen = [i for step in expected[10 * epoch : 10 * (epoch + 1)] for _, i in step]
        assert sorted(seen) == list(range(10_000))
    for workers, ranks in pairs:
        assert loaded(order, steps, workers=workers, ranks=ranks, micro_batch_size=250) == expected, (workers, ranks)


@pytest.mark.parametrize("examples", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_order_holds_for_any_numbers(examples: int) -> None:
    """C5: what a run sees is the same for any ranks, any micro-batches and any point of resuming."""

    @settings(max_examples=examples, deadline=None)
    @given(
        counts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
        ranks=st.sampled_from([1, 2, 3, 4]),
        micro_batches=st.integers(1, 3),
        micro_batch_size=st.integers(1, 5),
        seed=st.integers(0, 2**31),
        resume=st.integers(0, 1000),
    )
    def holds(counts: list[int], ranks: int, micro_batches: int, micro_batch_size: int, seed: int, resume: int) -> None:
        batch = ranks * micro_batches * micro_batch_size
        order = SampleOrder(tuple(counts), batch, seed)
        steps = range(resume, resume + 3)
        whole = {step: order.at(step) for step in steps}
        pieces = [
            list(micro_batches_of(order, steps, rank=rank, num_ranks=ranks, micro_batch_size=micro_batch_size))
            for rank in range(ranks)
        ]
        for step in steps:
            mine = [micro_batch for rank in pieces for micro_batch in rank if micro_batch.step == step]
            assert [int(i) for micro_batch in mine for i in micro_batch.samples] == whole[step].samples.tolist()
            assert {micro_batch.bucket for micro_batch in mine} == {whole[step].bucket}
            places = [micro_batch.first_index + i for micro_batch in mine for i in range(len(micro_batch))]
            assert places == list(range(step * batch, (step + 1) * batch))

    holds()


@pytest.mark.parametrize("examples", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_every_bucket_is_used_up_before_it_begins_anew(examples: int) -> None:
    """At the end of an epoch each bucket has been used without a gap: any two samples differ by one use at most."""

    @settings(max_examples=examples, deadline=None)
    @given(
        counts=st.lists(st.integers(1, 40), min_size=1, max_size=4), batch=st.integers(1, 9), epochs=st.integers(1, 4)
    )
    def holds(counts: list[int], batch: int, epochs: int) -> None:
        order = SampleOrder(tuple(counts), batch, 3)
        seen = [Counter[int]() for _ in counts]
        for step in range(sum(epochs * count // batch for count in counts)):
            drawn = order.at(step)
            seen[drawn.bucket].update(drawn.samples.tolist())
        for count, times in zip(counts, seen, strict=True):
            uses = [times[i] for i in range(count)]
            assert sum(uses) == epochs * count // batch * batch
            assert max(uses) - min(uses) <= 1

    holds()


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_a_permutation_sends_every_number_somewhere_else(count: int, key: int) -> None:
    sent = permute(np.arange(count), count, key)
    assert sorted(sent.tolist()) == list(range(count))
    assert [int(permute(np.array([i]), count, key)[0]) for i in range(min(count, 5))] == sent[:5].tolist()


def test_small_permutations_are_all_as_likely() -> None:
    """24 orders of four things: 240 times each of 5,760 keys, within five standard deviations; keys are fixed."""
    orders = Counter(tuple(permute(np.arange(4), 4, key).tolist()) for key in range(5760))
    assert len(orders) == 24
    assert max(abs(times - 240) for times in orders.values()) < 5 * 240**0.5


def test_neighbours_are_torn_apart() -> None:
    sent = permute(np.arange(10_000), 10_000, 5)
    assert abs(np.corrcoef(np.arange(10_000), sent)[0, 1]) < 0.03
    assert np.abs(np.diff(sent)).mean() == pytest.approx(10_000 / 3, rel=0.05)


def test_a_hundred_million_samples_cost_no_memory() -> None:
    order = SampleOrder((10**8, 3 * 10**6), 64, 0)
    drawn = order.at(10**7)
    assert len(set(drawn.samples.tolist())) == 64
    assert drawn.samples.max() < order.counts[drawn.bucket]
    assert order.epoch(10**7) == pytest.approx(64 / 10.3)


def test_seeds_epochs_and_buckets_have_orders_of_their_own() -> None:
    first = SampleOrder((50, 50), 50, 0)
    orders = {tuple(first.at(step).samples.tolist()) for step in range(6)}
    orders |= {tuple(SampleOrder((50, 50), 50, 1).at(step).samples.tolist()) for step in range(6)}
    assert len(orders) == 12


def test_what_can_t_be_ordered_is_refused() -> None:
    for counts, batch in (((), 1), ((3, 0), 1), ((3,), 0)):
        with pytest.raises(ValueError, match="must not be empty"):
            SampleOrder(counts, batch, 0)
    with pytest.raises(ValueError, match="can't be divided equally among 2 ranks"):
        share(range(3), 0, 2)


# Draws and captions


def test_a_sample_s_draws_depend_on_its_place_alone() -> None:
    order = SampleOrder((9,), 6, 0)
    (whole,) = micro_batches_of(order, range(2, 3))
    pieces = [
        micro_batch
        for rank in range(3)
        for micro_batch in micro_batches_of(order, range(2, 3), rank=rank, num_ranks=3, micro_batch_size=1)
    ]
    for purpose in Purpose:
        together = draw_uniform(whole.generators(purpose), 3)
        assert torch.equal(
            together, torch.cat([draw_uniform(micro_batch.generators(purpose), 3) for micro_batch in pieces])
        )
    shared = [torch.rand((), generator=micro_batch.shared_generator()).item() for micro_batch in (whole, *pieces)]
    assert len(set(shared)) == 1


@pytest.mark.parametrize(("first", "share"), [(None, 1 / 3), (0.8, 0.8), (0.0, 0.0), (1.0, 1.0)])
def test_captions_are_drawn_with_their_probability(first: float | None, share: float) -> None:
    choice = CaptionChoice(first)
    draws = np.random.default_rng(0).random((2000, NUM_DRAWS)).tolist()
    picked = [choice.pick(3, draw) for draw in draws]
    assert picked.count(0) / 2000 == pytest.approx(share, abs=0.03)
    assert picked.count(1) / 2000 == pytest.approx((1 - share) / 2, abs=0.03)
    assert {choice.pick(1, draw) for draw in draws[:20]} == {0}


def test_captions_are_cut_after_a_sentence() -> None:
    caption = "A dog, 3.5 m tall. It runs! Does it? Yes."
    draws = np.random.default_rng(0).random((500, NUM_DRAWS)).tolist()
    cut = {CaptionChoice(cut=1.0).text([caption], draw) for draw in draws}
    assert cut == {"A dog, 3.5 m tall.", "A dog, 3.5 m tall. It runs!", "A dog, 3.5 m tall. It runs! Does it?"}
    assert {CaptionChoice().text([caption], draw) for draw in draws} == {caption}
    some = [CaptionChoice(cut=0.25).text([caption], draw) != caption for draw in draws]
    assert np.mean(some) == pytest.approx(0.25, abs=0.06)
    assert CaptionChoice(cut=1.0).text(["one sentence only"], draws[0]) == "one sentence only"
