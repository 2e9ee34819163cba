"""What `bitvar bench serve` makes of what it measured, and of a server that isn't there."""

import json
import socket

import pytest

from bitvar.errors import UsageError
from bitvar.serving.benchmark import ServedSpeed, measure_server, wait_until_ready
from tests.support.serving import running_server


def test_medians_percentiles_and_ratios_are_of_the_right_values() -> None:
    measured = ServedSpeed(
        first_seconds=[1.0, 2.0, 3.0],
        whole_seconds=[10.0, 4.0, 10.0],
        known_shares=[0.1, 0.2, 0.9],
        served=[9.0, 8.0],
        drawn=[10.0, 10.0],
        idle_pings=[0.001] * 99 + [0.5],
        loaded_pings=[0.002, 0.004, 0.006],
        after_cancel=[0, 1, 1, 0],
    )
    summary = measured.summary()
    assert summary["first_preview_share"] == 0.3 and summary["first_preview_share_known"] == 0.2
    assert summary["throughput_ratio"] == 0.85
    assert (summary["livez_idle_p50_ms"], summary["livez_load_p50_ms"]) == (1.0, 4.0)
    assert (summary["scales_after_cancel_mean"], summary["scales_after_cancel_max"]) == (0.5, 1)
    json.dumps(summary)


def test_a_server_that_is_not_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UsageError, match="Can't reach"):
        wait_until_ready(f"http://127.0.0.1:{port}")


@pytest.mark.slow
def test_a_running_server_can_be_measured() -> None:
    with running_server() as server:
        measured = measure_server(server.url, clients=3, images=4, runs=2)
    assert len(measured.first_seconds) == len(measured.after_cancel) == 2
    assert all(first < whole for first, whole in zip(measured.first_seconds, measured.whole_seconds, strict=True))
    assert measured.summary()["throughput_ratio"] is None
