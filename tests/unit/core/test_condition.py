"""Text conditions: padding, joining, dropping."""

import torch

from bitvar.condition import TextCondition


def rows(*lengths: int, width: int = 3, start: float = 1.0) -> list[torch.Tensor]:
    return [torch.full((length, width), start + i) for i, length in enumerate(lengths)]


def test_shorter_prompts_are_padded_with_masked_zeros() -> None:
    condition = TextCondition.from_list(rows(2, 4))
    assert condition.batch == 2
    assert condition.features.shape == (2, 4, 3)
    assert condition.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert not condition.features[0, 2:].any()
    assert condition.dropped.tolist() == [False, False]


def test_concatenating_pads_to_the_longer_and_keeps_order_and_drops() -> None:
    first = TextCondition.from_list(rows(1, 2))
    second = TextCondition.from_list(rows(3, 1, start=7.0)).drop(torch.tensor([False, True]))
    both = first.concatenate(second)
    assert both.features.shape == (4, 3, 3)
    assert both.mask.sum(dim=1).tolist() == [1, 2, 3, 1]
    assert both.features[:, 0, 0].tolist() == [1.0, 2.0, 7.0, 8.0]
    assert both.dropped.tolist() == [False, False, False, True]


def test_concatenating_forgets_needless_padding() -> None:
    padded = TextCondition.from_list(rows(2, 5))
    short = TextCondition(padded.features[:1], padded.mask[:1], padded.dropped[:1])
    assert short.concatenate(short).features.shape[1] == 2


def test_dropping_keeps_lengths_and_leaves_the_original_alone() -> None:
    condition = TextCondition.from_list(rows(2, 3))
    dropped = condition.drop(torch.tensor([True, False]))
    assert dropped.dropped.tolist() == [True, False]
    assert torch.equal(dropped.mask, condition.mask)
    assert condition.dropped.tolist() == [False, False]


def test_moving_moves_every_part() -> None:
    moved = TextCondition.from_list(rows(2)).to(torch.device("meta"))
    assert {t.device.type for t in (moved.features, moved.mask, moved.dropped)} == {"meta"}


def test_a_condition_is_where_its_features_are() -> None:
    condition = TextCondition.from_list([row.to("meta") for row in rows(1, 2)])
    dropped = condition.drop(torch.tensor([True, False]))
    for part in (condition.features, condition.mask, condition.dropped, dropped.dropped):
        assert part.device.type == "meta"
