"""Bulk runs over a Ray cluster: what is refused without one, and two actors that share a list on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitvar.bulk import WorkItem, generate_work, read_ledger
from bitvar.bulk import cluster as on_cluster
from bitvar.bulk.cluster import ClusterOptions, generate_on_cluster
from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.request import GenerationRequest
from tests.support.drawing import QuickPipeline, item, visible_files
from tests.support.tiny import rough_pipeline


def test_a_missing_ray_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"Ray Data is not installed(.|\n)*pip install"):
        generate_on_cluster(QuickPipeline, [item(0)], tmp_path, cluster=ClusterOptions(2), batch_size=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "resources", "words"),
    [
        (ClusterOptions(3), {"CPU": 2.0}, "each reserves 1 CPUs, and the cluster has 2"),
        (ClusterOptions(3), {"CPU": 8.0, "GPU": 2.0}, "each reserves 1 GPUs, and the cluster has 2"),
        (ClusterOptions(1, gpus=1), {"CPU": 8.0}, "each reserves 1 GPUs, and the cluster has 0"),
    ],
    ids=["cpus", "gpus", "no-gpu"],
)
def test_actors_that_would_wait_for_ever_are_refused(
    options: ClusterOptions, resources: dict[str, float], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        on_cluster._require_room(options, resources)
    assert on_cluster._require_room(ClusterOptions(2), {"CPU": 2.0}) == 0.0


def test_an_item_crosses_processes_as_json() -> None:
    prefix = GenerationRequest(prompts=("a",), quality="sharp", negative_prompt=("b",), width=16, height=8)  # type: ignore[arg-type]
    for one in (item(3, guidance=2.0, note={"id": [1]}, record={"enlarge": 2}), WorkItem("a/b.png", prefix, 2**62)):
        assert WorkItem.parse(one.dump()) == one


ON_TWO_ACTORS = """
import json, sys
from functools import partial
from pathlib import Path
from bitvar.bulk import WorkItem
from bitvar.bulk.cluster import ClusterOptions, generate_on_cluster
from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline

model, folder, texts = sys.argv[1], Path(sys.argv[2]), json.load(sys.stdin)
items = [WorkItem.parse(text) for text in texts]
load = partial(InfinityPipeline.from_pretrained, model, device="cpu")
cluster = ClusterOptions(actors=2, cpus=0.5)
result = generate_on_cluster(load, items, folder, cluster=cluster, batch_size=3)
changed = WorkItem(items[0].file, items[1].request, 0)
try:
    generate_on_cluster(load, [changed], folder, cluster=cluster, batch_size=3)
except UsageError as error:
    print(json.dumps([result.already_there, result.drawn, str(error)]))
"""


@pytest.mark.slow
def test_two_actors_draw_what_one_process_draws(tmp_path: Path) -> None:
    """In a process of its own: Ray can't send classes that the tests' import hook has changed."""
    pipeline = rough_pipeline(tmp_path)
    pipeline.save_pretrained(tmp_path / "model")
    pipeline = InfinityPipeline.from_pretrained(tmp_path / "model", device="cpu")
    requests = [GenerationRequest(prompts=(f"a {word}",)) for word in ("dog", "cat", "red circle", "square")]
    items = [WorkItem(f"{seed}.png", requests[seed % 4], seed, note={"id": seed}) for seed in range(14)]
    alone = generate_work(pipeline, items, tmp_path / "alone", batch_size=4)
    generate_work(pipeline, items[:5], tmp_path / "shared", batch_size=4)
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_ACTORS, str(tmp_path / "model"), str(tmp_path / "shared")],
        input=json.dumps([one.dump() for one in items]), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    already_there, drawn, refusal = json.loads(done.stdout)
    assert (already_there, drawn) == (5, 9)
    assert "was made with other settings" in refusal
    assert visible_files(tmp_path / "shared") == visible_files(tmp_path / "alone")
    assert [line.sha256 for line in read_ledger(tmp_path / "shared")] == [line.sha256 for line in alone.lines]
