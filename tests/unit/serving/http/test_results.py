"""Images behind URLs, on a clock of the test's."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.serving.http.results import ResultStore


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_image_is_there_until_its_time_is_over() -> None:
    clock = Clock()
    store = ResultStore(seconds=10, max_bytes=100, clock=clock)
    image_id = store.put(b"file", "image/png")
    clock.now += 9.9
    stored = store.get(image_id)
    assert stored is not None and (stored.data, stored.media_type) == (b"file", "image/png")
    clock.now += 0.1
    assert store.get(image_id) is None
    assert store.num_bytes == 0


def test_time_does_not_begin_anew_when_an_image_is_read() -> None:
    clock = Clock()
    store = ResultStore(seconds=10, max_bytes=100, clock=clock)
    image_id = store.put(b"file", "image/png")
    clock.now += 6
    assert store.get(image_id) is not None
    clock.now += 6
    assert store.get(image_id) is None


def test_the_oldest_images_go_when_there_are_too_many() -> None:
    store = ResultStore(seconds=10, max_bytes=100)
    ids = [store.put(b"x" * 40, "image/png") for _ in range(4)]
    assert [store.get(image_id) is not None for image_id in ids] == [False, False, True, True]
    assert store.num_bytes == 80


def test_an_image_larger_than_the_store_is_not_kept_and_clears_it() -> None:
    store = ResultStore(seconds=10, max_bytes=100)
    store.put(b"x" * 40, "image/png")
    assert store.get(store.put(b"x" * 101, "image/png")) is None
    assert store.num_bytes == 0


def test_ids_are_long_and_all_different() -> None:
    store = ResultStore(seconds=10, max_bytes=1 << 20)
    ids = {store.put(b"x", "image/png") for _ in range(500)}
    assert len(ids) == 500
    assert all(len(image_id) == 32 for image_id in ids)  # 192 bits
    assert store.get("") is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 4)), max_size=40))
def test_memory_is_bounded_and_counted_exactly(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    store = ResultStore(seconds=10, max_bytes=100, clock=clock)
    ids: list[tuple[str, int]] = []
    for size, pause in steps:
        ids.append((store.put(b"x" * size, "image/png"), size))
        assert store.num_bytes <= 100
        clock.now += pause
        kept = [size for image_id, size in ids if store.get(image_id) is not None]
        assert store.num_bytes == sum(kept)
