"""Captured graphs give the plain model's bits, whatever is decoded before, beside or between."""

import copy
import gc
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitvar.runtime import graph_buffers
from bitvar.runtime.graph_capture import GraphCapture, RecordingCapture
from bitvar.runtime.graphs import CudaGraphs, GraphDecoder, GraphedFunction
from bitvar.sampling.decoder import DecoderState, ScaleDecoder
from bitvar.transformer import InfinityTransformer
from tests.support.decoding import GUIDED_THEN_NOT, Logits, equal, rough_transformer, run, start, texts
from tests.support.tiny import tiny_pipeline, tiny_tokenizer


@pytest.fixture
def model(device: torch.device) -> InfinityTransformer:
    return rough_transformer(device)


@pytest.fixture
def graphs(model: InfinityTransformer, capture: GraphCapture) -> GraphDecoder:
    return GraphDecoder(model, capture)


def test_they_are_decoders(model: InfinityTransformer, graphs: GraphDecoder) -> None:
    assert isinstance(graphs, ScaleDecoder)
    assert isinstance(graphs.start_decoding(texts(3), model.config.all_schedules()[0]), DecoderState)
    assert (graphs.config, graphs.device, graphs.dtype) == (model.config, model.device, model.dtype)


@pytest.mark.parametrize(
    ("lengths", "guidance", "apart"),
    [
        ((3,), 1.0, False),
        ((64,), GUIDED_THEN_NOT, False),
        ((5, 2, 9), 3.0, False),
        ((5, 2, 9), GUIDED_THEN_NOT, True),
    ],
)
def test_every_logit_and_bit_is_the_plain_models(
    model: InfinityTransformer, graphs: GraphDecoder, lengths: tuple[int, ...], guidance: Any, apart: bool
) -> None:
    for schedule in model.config.all_schedules():
        for seed in range(2):  # captured, then replayed with another text
            given = texts(*lengths, seed=seed)
            plain = run(model, given, schedule, guidance=guidance, apart=apart)
            assert equal(run(graphs, given, schedule, guidance=guidance, apart=apart), plain)


def test_a_replay_runs_none_of_the_models_code(
    model: InfinityTransformer, graphs: GraphDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = model.config.all_schedules()[0]
    plain = run(model, texts(4, seed=1), schedule)
    run(graphs, texts(4), schedule)
    monkeypatch.setattr(InfinityTransformer, "decode_scale", None)
    assert equal(run(graphs, texts(4, seed=1), schedule), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_within_its_rounding(
    device: torch.device, capture: GraphCapture, dtype: torch.dtype
) -> None:
    model = rough_transformer(device, dtype)
    graphs, schedule = GraphDecoder(model, capture), model.config.all_schedules()[0]
    with torch.inference_mode():
        for lengths in ((64,), (5,)):
            mine, theirs = (d.start_decoding(texts(*lengths), schedule) for d in (graphs, model))
            got, expected = graphs.decode_scale(mine.start, 0, mine), model.decode_scale(theirs.start, 0, theirs)
            bound = 0.0 if lengths == (64,) else 4 * torch.finfo(dtype).eps
            assert (got - expected).abs().max() <= bound * expected.abs().max()


def test_a_text_that_padding_would_change_keeps_its_length(
    model: InfinityTransformer, graphs: GraphDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = model.config.all_schedules()[0]
    for kept, expected in ((True, 64), (False, 5)):
        monkeypatch.setattr(graph_buffers, "_padding_keeps_bits", lambda *given, kept=kept: kept)
        assert graphs.start_decoding(texts(5), schedule).call.shape.text_tokens == expected
    model.bfloat16()
    assert graphs.start_decoding(texts(5), schedule).call.shape.text_tokens == 64
    assert graphs.start_decoding(texts(70), schedule).call.shape.text_tokens == 128


def test_padding_is_compared_at_every_scale(
    model: InfinityTransformer, graphs: GraphDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, plain = model.config.all_schedules()[0], graph_buffers.attend

    def unlike(q: Tensor, k: Tensor, *given: Any, **named: Any) -> Tensor:
        """Padded keys change the last scale alone."""
        off = 1e-6 if k.shape[2] == 64 and q.shape[2] == schedule.lengths[-1] else 0.0
        return plain(q, k, *given, **named) + off

    monkeypatch.setattr(graph_buffers, "attend", unlike)
    assert graphs.start_decoding(texts(5), schedule).call.shape.text_tokens == 5


def test_nan_of_a_longer_text_does_not_outlive_it(model: InfinityTransformer, graphs: GraphDecoder) -> None:
    schedule = model.config.all_schedules()[0]
    broken = texts(40)
    broken.features[:, 20:] = torch.nan
    model.bfloat16()  # padded whatever the order of the sums
    for given, finite in ((broken, False), (texts(7), True)):
        state = graphs.start_decoding(given, schedule)
        assert graphs.decode_scale(state.start, 0, state).isfinite().all() == finite
    assert len(graphs._buffers) == 1


def test_logits_outlive_the_next_replay(model: InfinityTransformer, graphs: GraphDecoder) -> None:
    schedule = model.config.all_schedules()[0]
    states = [graphs.start_decoding(texts(64, seed=seed), schedule) for seed in range(2)]
    first, second = (graphs.decode_scale(state.start, 0, state) for state in states)
    again = graphs.decode_scale(states[0].start, 0, states[0])
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_calls_read_in_turn_do_not_disturb_each_other(model: InfinityTransformer, graphs: GraphDecoder) -> None:
    wide, tall = model.config.all_schedules()
    calls = [(texts(3), wide, 3.0), (texts(6, seed=1), wide, GUIDED_THEN_NOT), (texts(3, 9), tall, 1.0)]
    plain = [run(model, text, schedule, guidance=g)[3:] for text, schedule, g in calls]
    kept = [Logits(graphs) for _ in calls]
    streams = [start(own, text, schedule, guidance=g) for own, (text, schedule, g) in zip(kept, calls, strict=True)]
    bits: list[list[Tensor]] = [[] for _ in calls]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        for which in order:
            bits[which].append(next(streams[which]).bits)
    assert all(equal(got, expected) for got, expected in zip(bits, plain, strict=True))


def test_calls_in_threads_do_not_disturb_each_other(model: InfinityTransformer, graphs: GraphDecoder) -> None:
    schedule = model.config.all_schedules()[0]
    given = [texts(64, seed=i) for i in range(3)]
    plain = [run(model, text, schedule, guidance=1.0) for text in given]
    run(graphs, given[0], schedule, guidance=1.0)  # so that all of them find the same buffers
    ready, equals = threading.Barrier(len(given)), [False] * len(given)

    def work(which: int) -> None:
        ready.wait()
        equals[which] = all(equal(run(graphs, given[which], schedule, guidance=1.0), plain[which]) for _ in range(4))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(given))]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert all(equals)


def test_only_the_most_recent_shapes_keep_their_graphs(model: InfinityTransformer, capture: GraphCapture) -> None:
    graphs = GraphDecoder(model, capture, max_shapes=2)
    wide, tall = model.config.all_schedules()
    paused = start(graphs, texts(64), wide)  # its shape is dropped while it is being read
    bits = [next(paused).bits]
    for length, schedule in ((64, tall), (80, wide), (80, tall)):
        given = texts(length)
        assert equal(run(graphs, given, schedule), run(model, given, schedule))
        assert len(graphs._buffers) == 2
    bits += [result.bits for result in paused]
    assert equal(bits, run(model, texts(64), wide)[3:])


def test_a_paused_call_outlives_the_memory_of_its_shape(model: InfinityTransformer, capture: GraphCapture) -> None:
    graphs = GraphDecoder(model, capture, max_shapes=1)
    wide, tall = model.config.all_schedules()
    paused = start(graphs, texts(64), tall)
    bits = [next(paused).bits, next(paused).bits]
    run(graphs, texts(64), wide)  # needs more memory than `tall` has
    bits += [result.bits for result in paused]
    assert equal(bits, run(model, texts(64), tall)[3:])


def test_shapes_share_memory_where_they_fit(model: InfinityTransformer, graphs: GraphDecoder) -> None:
    wide, tall = model.config.all_schedules()
    for schedule, memories in ((tall, 1), (wide, 2), (tall, 2), (wide, 2)):
        run(graphs, texts(64), schedule)
        run(graphs, texts(80), schedule)
        assert len({id(buffers.memory) for buffers in graphs._buffers.values()}) == memories


def test_a_single_call_copies_no_cache(
    model: InfinityTransformer, graphs: GraphDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = list[object]()
    monkeypatch.setattr(graph_buffers.Call, "save", lambda call, cache: saved.append(call))
    for seed in range(2):
        run(graphs, texts(64, seed=seed), model.config.all_schedules()[0], guidance=GUIDED_THEN_NOT)
        gc.collect()
    assert saved == []


def optimized(device: torch.device) -> CudaGraphs:
    graphs = CudaGraphs(rough_transformer(device), tiny_tokenizer().to(device))
    graphs.apply()
    return graphs


def test_changed_weights_count_after_a_refresh(device: torch.device) -> None:
    graphs = optimized(device)
    model, given = graphs.transformer, texts(5)
    schedule, latent = model.config.all_schedules()[0], torch.randn(1, 4, 4, 4, device=device)

    def results(decoder: ScaleDecoder[Any]) -> list[Tensor]:
        with torch.inference_mode():
            return [*run(decoder, given, schedule), graphs.tokenizer.decode(latent)]

    before = results(graphs.decoder(model))
    for layer in (model.blocks[0].fc2, graphs.tokenizer.decoder.conv_out):  # replaced, as `to` does
        layer.weight = torch.nn.Parameter(layer.weight * 1.5, requires_grad=False)
    graphs.refresh()
    after = results(graphs.decoder(model))
    graphs.undo()
    assert equal(after, results(model))
    assert not torch.equal(before[0], after[0]) and not torch.equal(before[-1], after[-1])


def test_a_copy_captures_its_own_graphs(device: torch.device) -> None:
    graphs = optimized(device)
    model = graphs.transformer
    schedule = model.config.all_schedules()[0]
    expected = run(graphs.decoder(model), texts(5), schedule)
    twin = copy.deepcopy(graphs)
    for parameter in model.parameters():
        parameter.zero_()
    assert equal(run(twin.decoder(twin.transformer), texts(5), schedule), expected)
    again = pickle.loads(pickle.dumps(twin))
    assert equal(run(again.decoder(again.transformer), texts(5), schedule), expected)


def test_undone_and_done_again_over_another_optimization(device: torch.device) -> None:
    tokenizer = tiny_tokenizer().to(device)
    graphs = CudaGraphs(rough_transformer(device), tokenizer)
    graphs.apply()
    graphs.undo()
    assert "forward" not in vars(tokenizer.decoder)
    other = vars(tokenizer.decoder)["forward"] = tokenizer.decoder.conv_in
    graphs.apply()
    latent = torch.randn(1, 4, 4, 4, device=device)
    with torch.no_grad():
        assert torch.equal(tokenizer.decoder(latent), other(latent))
    graphs.undo()
    assert vars(tokenizer.decoder)["forward"] is other


def test_decoded_images_are_the_plain_decoders(device: torch.device, capture: GraphCapture) -> None:
    decoder = tiny_tokenizer().to(device).decoder
    graphed = GraphedFunction(decoder, capture, max_shapes=2)
    for seed, size in enumerate(((4, 4), (4, 2), (4, 4), (2, 2), (4, 4))):
        latent = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(seed)).to(device)
        with torch.no_grad():
            assert torch.equal(graphed(latent), decoder(latent))
        assert len(graphed._graphs) <= 2
    assert graphed(torch.randn(1, 4, 2, 2, device=device, requires_grad=True)).requires_grad


def test_a_recording_repeats_operations_on_the_same_memory() -> None:
    x, total = torch.ones(2, 3), torch.zeros(2)
    inputs = [x]

    def compute() -> Tensor:
        total.add_(inputs[0].T[0])  # a view, and memory written to
        return (inputs[0] * 2).sum(dim=1) + total

    graph = RecordingCapture(x.device).capture(compute)
    inputs[0] = torch.full((2, 3), 100.0)  # a new tensor in place of the captured one goes unnoticed
    x.fill_(5.0)
    output = graph.output
    graph.replay()
    assert graph.output is output and output.tolist() == [36.0, 36.0] and total.tolist() == [6.0, 6.0]


@pytest.mark.parametrize("together", [False, True])
def test_a_pipeline_draws_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    monkeypatch.setattr(CudaGraphs, "devices", ("cpu",))
    monkeypatch.setattr(CudaGraphs, "available", staticmethod(lambda: True))
    pipe = tiny_pipeline(tmp_path)
    prompts, options = ["a red dog", "two cats"], {"seed": 3, "batch_invariant": not together}
    plain = pipe(prompts, output_type="pt", **options).images
    pipe.optimize("graphs")
    paused = pipe.stream(prompts, **options)
    next(paused)
    images = pipe(prompts, output_type="pt", **options).images
    assert all(torch.equal(got, expected) for got, expected in zip(images, plain, strict=True))
    (*_, last) = paused
    assert torch.equal(last.pixels, torch.stack(list(plain)))
    assert pipe.optimizations == ["graphs"] and pipe.lossy_optimizations == []
