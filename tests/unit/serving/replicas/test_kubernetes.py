"""The files in deploy/kubernetes say what the server understands, and keep to the rules for pods."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitvar.cli import serve as cli
from bitvar.serving.engine.engine import EngineLimits
from bitvar.serving.replicas.arguments import FrontArguments, ModelArguments

FOLDER = Path(__file__).parents[4] / "deploy" / "kubernetes"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "single", documents("single.yaml")[0]["spec"]["template"]["spec"]
    cluster = documents("rayservice.yaml")[0]["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


PODS = dict(pods())


def applications() -> dict[str, dict[str, Any]]:
    config = yaml.safe_load(documents("rayservice.yaml")[0]["spec"]["serveConfigV2"])
    return {entry["name"]: entry for entry in config["applications"]}


def options_of_single() -> dict[str, str]:
    (container,) = PODS["single"]["containers"]
    verb, *options = container["args"]
    assert (container["command"], verb) == (["bitvar"], "serve")
    return dict(option.removeprefix("--").split("=", 1) for option in options)


def test_every_file_is_known_here() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"network-policy.yaml", "rayservice.yaml", "single.yaml"}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_pods_have_few_rights(pod: dict[str, Any]) -> None:
    security = pod["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] >= 10_000
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert not container["image"].endswith(":latest") and ":" in container["image"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes
        assert mounts["scratch"]["mountPath"] == "/tmp" and mounts["keys"]["readOnly"]


def test_the_options_of_the_single_process_exist() -> None:
    known = {name.replace("_", "-") for name in inspect.signature(cli.serve).parameters}
    assert options_of_single().keys() <= known


def test_a_pod_outlives_the_drain() -> None:
    pause = int(PODS["single"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(options_of_single()["drain-timeout"])
    assert PODS["single"]["terminationGracePeriodSeconds"] > pause + drain
    front = FrontArguments.parse(applications()["front"]["args"], source="front")
    model = ModelArguments.parse(applications()["model"]["args"], source="model")
    for name in ("head", "models"):
        assert PODS[name]["terminationGracePeriodSeconds"] > max(front.drain_seconds, model.replicas.drain_seconds)
    assert front.drain_seconds > front.limits.request_timeout


def test_probes_ask_what_needs_no_key() -> None:
    (container,) = PODS["single"]["containers"]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/readyz",  # the model is loaded
        "livenessProbe": "/livez",  # the front answers; a worker that died comes back without a restart of the pod
        "readinessProbe": "/readyz",
    }
    for probe in probes.values():
        assert probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}]  # passes the check with --allowed-host


def test_the_arguments_of_the_applications_are_understood() -> None:
    found = applications()
    assert {name: entry["import_path"] for name, entry in found.items()} == {
        "model": "bitvar.serving.replicas.app:model",
        "front": "bitvar.serving.replicas.app:front",
    }
    front = FrontArguments.parse(found["front"]["args"], source="front")
    assert front.application == "model"
    assert front.api_key_file is not None and not front.http.is_local
    assert (found["front"]["route_prefix"], found["model"]["route_prefix"]) == ("/", None)
    assert front.limits != EngineLimits()
    model = ModelArguments.parse(found["model"]["args"], source="model")
    assert model.worker.threads == model.replicas.cpus


def test_every_worker_node_has_room_for_one_replica() -> None:
    model = ModelArguments.parse(applications()["model"]["args"], source="model")
    (group,) = documents("rayservice.yaml")[0]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert float(container["resources"]["limits"]["cpu"]) == model.replicas.cpus
    assert (group["minReplicas"], group["maxReplicas"]) == (model.replicas.replicas, model.replicas.max_replicas)


def test_only_the_port_of_the_server_is_open_to_others() -> None:
    (policy,) = documents("network-policy.yaml")
    assert [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule] == [
        [{"protocol": "TCP", "port": 8000}]
    ]
    labels = {"app": "bitvar"}
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
