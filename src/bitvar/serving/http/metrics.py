"""Counts and times of requests and jobs, written for Prometheus when it asks."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bitvar.serving.engine.engine import Engine
    from bitvar.serving.http.results import ResultStore
    from bitvar.serving.http.uploads import Uploads

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds in seconds of the histograms' buckets."""

EDIT_KINDS: Final = ("edit", "variation", "img2img")
JOB_OUTCOMES: Final = ("accepted", "finished", "failed", "cancelled")


class Histogram:
    """Numbers of values up to each bound, and their sum."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Take in a value."""
        index = next((index for index, bound in enumerate(BUCKETS) if value <= bound), len(BUCKETS))
        self._counts[index] += 1
        self._sum += value

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """Return the bounds with the numbers of values up to them, and the sum."""
        total, pairs = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._counts, strict=True):
            total += count
            pairs.append((bound, float(total)))
        return pairs, self._sum


class HttpMetrics:
    """What the HTTP side counts."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """Numbers of requests by method, route and status."""
        self.request_seconds = Histogram()
        self.queued_seconds = Histogram()
        self.drawing_seconds = Histogram()
        self.first_preview_seconds = Histogram()
        self.images = 0
        self.edits: Counter[str] = Counter()
        """Numbers of accepted edits and variations, by kind."""

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Take in a request that is over."""
        self.requests[method, route, status] += 1
        self.request_seconds.add(seconds)


def write_metrics(
    metrics: HttpMetrics, engine: "Engine", results: "ResultStore", uploads: "Uploads"
) -> tuple[bytes, str]:
    """Write everything in Prometheus' text format.

    Returns:
        The text and its media type.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(metrics, engine, results, uploads))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector:
    """Present counts as Prometheus' client library wants them."""

    def __init__(self, metrics: HttpMetrics, engine: "Engine", results: "ResultStore", uploads: "Uploads") -> None:
        self._metrics = metrics
        self._engine = engine
        self._results = results
        self._uploads = uploads

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        metrics, engine = self._metrics, self._engine
        requests = CounterMetricFamily(
            "bitvar_http_requests", "Requests that are over.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in metrics.requests.items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        jobs = CounterMetricFamily("bitvar_jobs", "Jobs by what became of them.", labels=["outcome"])
        for outcome in JOB_OUTCOMES:
            jobs.add_metric([outcome], engine.counts[outcome])
        yield jobs
        refused = CounterMetricFamily("bitvar_jobs_refused", "Jobs that were not accepted.", labels=["reason"])
        for name, count in engine.counts.items():
            if name.startswith("refused_"):
                refused.add_metric([name.removeprefix("refused_")], count)
        yield refused
        yield CounterMetricFamily("bitvar_images", "Images that were finished.", value=metrics.images)
        edits = CounterMetricFamily("bitvar_edits", "Accepted requests with an image.", labels=["kind"])
        for kind in EDIT_KINDS:
            edits.add_metric([kind], metrics.edits[kind])
        yield edits
        uploads = self._uploads
        yield CounterMetricFamily("bitvar_upload_bytes", "Bytes of forms that were read.", value=uploads.total_bytes)
        yield GaugeMetricFamily("bitvar_uploads_held_bytes", "Bytes of forms that are held now.", uploads.num_bytes)
        yield CounterMetricFamily("bitvar_scales", "Scales that were drawn.", value=engine.counts["scales"])
        yield CounterMetricFamily(
            "bitvar_scales_after_cancel",
            "Scales that came in after their job was cancelled.",
            value=engine.counts["scales_after_cancel"],
        )
        yield CounterMetricFamily(
            "bitvar_previews_left_out",
            "Previews that were left out, since their client read too slowly.",
            value=engine.counts["previews_left_out"],
        )
        yield CounterMetricFamily("bitvar_worker_losses", "Times the worker died.", value=engine.counts["lost"])
        yield GaugeMetricFamily("bitvar_jobs_waiting", "Jobs whose first scale has not begun.", engine.num_waiting)
        yield GaugeMetricFamily("bitvar_jobs_running", "Jobs that are being drawn.", engine.num_running)
        yield GaugeMetricFamily("bitvar_ready", "Whether jobs are drawn.", float(engine.state == "ready"))
        yield GaugeMetricFamily("bitvar_result_bytes", "Memory of images behind URLs.", self._results.num_bytes)
        for name, text, histogram in (
            (
                "http_request",
                "Seconds from a request to the end of its answer.",
                metrics.request_seconds,
            ),
            ("job_queued", "Seconds that finished jobs waited.", metrics.queued_seconds),
            ("job_drawing", "Seconds that finished jobs were drawn.", metrics.drawing_seconds),
            (
                "first_preview",
                "Seconds from a request to its first preview.",
                metrics.first_preview_seconds,
            ),
        ):
            buckets, total = histogram.cumulative()
            yield HistogramMetricFamily(f"bitvar_{name}_seconds", text, buckets=buckets, sum_value=total)
