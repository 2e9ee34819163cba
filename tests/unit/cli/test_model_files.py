"""`bitvar models list, info, pull, verify, rm and push`, with a hub on this machine."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from typer.testing import CliRunner

from bitvar.cli.main import app
from bitvar.pipeline import InfinityPipeline
from bitvar.weights.hub_cache import cached_models, plan_download, pull
from tests.support.fake_hub import FakeHub, fake_hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's uploads


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, in use for the test."""
    folder = tmp_path / "hub"
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as server:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache.parent / "token"))
        monkeypatch.setenv("HF_TOKEN", server.token)
        huggingface_hub.utils.disable_progress_bars()
        yield server
        huggingface_hub.utils.enable_progress_bars()


def run(*command: str, code: int = 0, answer: str | None = None) -> str:
    result = CliRunner().invoke(app, ["models", *command], input=answer)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_pull_list_info_verify_and_remove(hub: FakeHub, cache: Path, tiny_model: Path) -> None:
    commit = hub.publish("someone/tiny", tiny_model)
    facts = json.loads(run("pull", "someone/tiny", "--json"))
    assert facts["commit"] == commit and Path(facts["folder"]).name == commit
    assert InfinityPipeline.from_pretrained("someone/tiny", device="cpu").index.name == "tiny"
    row = json.loads(run("list", "--json"))[-1]
    assert (row["name"], row["place"], row["revision"], row["complete"]) == ("someone/tiny", "cache", commit, True)
    assert row["size"] == sum(path.stat().st_size for path in tiny_model.rglob("*") if path.is_file())
    assert f"revision {commit[:12]}" in run("list").splitlines()[-1]
    hub.broken = True  # from here on, everything is on this machine
    assert json.loads(run("info", "someone/tiny", "--json"))["revision"] == commit
    assert run("verify", "someone/tiny").startswith("good ")
    freed = json.loads(run("rm", "someone/tiny", "--yes", "--json"))["freed"]
    assert freed == row["size"] and cached_models(cache) == []


def test_info_of_a_model_that_was_not_pulled_downloads_no_weights(hub: FakeHub, cache: Path, tiny_model: Path) -> None:
    hub.publish("someone/tiny", tiny_model)
    facts = json.loads(run("info", "someone/tiny", "--json"))
    assert facts["not_downloaded"].endswith("bitvar models pull someone/tiny")
    assert facts["sizes"] == ["16x16", "8x16"] or facts["sizes"]
    assert not any(name.endswith(".safetensors") for name in hub.served)
    assert "files missing: bitvar models pull someone/tiny" in run("list").splitlines()[-1]


def test_an_interrupted_pull_continues(
    hub: FakeHub, cache: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # else 10 MB, more than the model has
    hub.publish("someone/tiny", tiny_model)
    largest = max((path.stat().st_size, path) for path in tiny_model.rglob("*.safetensors"))[1]
    name, size = largest.relative_to(tiny_model).as_posix(), largest.stat().st_size
    hub.cut = size - 1000
    assert size > 1 << 20, "smaller files are begun again"
    assert "continues where it stopped" in run("pull", "someone/tiny", code=3)
    (partial,) = cached_models(cache)
    assert name in partial.missing and not (partial.folder / name).exists()
    hub.cut, hub.broken = None, False
    run("pull", "someone/tiny")
    assert size <= hub.served[name] <= size + 1000  # at most the last chunk was sent twice
    assert run("verify", "someone/tiny").startswith("good ")


def test_pulling_mends_what_was_altered(hub: FakeHub, cache: Path, tiny_model: Path) -> None:
    hub.publish("someone/tiny", tiny_model)
    folder = pull(plan_download("someone/tiny"), cache)
    weights = folder / "image_tokenizer" / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "image_tokenizer/model.safetensors: sha256" in run("verify", "someone/tiny", code=3)
    run("pull", "someone/tiny")
    assert weights.read_bytes() == good


def test_a_revision_is_pinned(hub: FakeHub, cache: Path, tiny_model: Path) -> None:
    first = hub.publish("someone/tiny", tiny_model)
    files = hub.repositories["someone/tiny"].commits[first]
    second = hub.repositories["someone/tiny"].commit({**files, "NOTICE": b"new"})
    run("pull", "someone/tiny", "--revision", first)
    run("pull", "someone/tiny")
    assert {model.commit for model in cached_models(cache)} == {first, second}
    assert "the cache holds" in run("rm", "someone/tiny", "--revision", "none", "--yes", code=2)
    run("rm", "someone/tiny", "--revision", first, "--yes")
    assert [model.commit for model in cached_models(cache)] == [second]
    assert run("verify", "someone/tiny").startswith("good ")  # shared files stayed
    assert "no such revision" in run("pull", "someone/tiny", "--revision", "gone", code=3)


def test_what_is_not_ours_stays(hub: FakeHub, cache: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = cache / "models--someone--other" / "snapshots" / ("0" * 40)
    other.mkdir(parents=True)
    (other / "model_index.json").write_text("{}")
    hub.publish("someone/tiny", tiny_model)
    run("pull", "someone/tiny")
    assert "no model 'someone/other'" in run("rm", "someone/other", "--yes", code=2)
    run("rm", "someone/tiny", "--yes")
    assert (other / "model_index.json").is_file()
    mine = Path(shutil.copytree(tiny_model, tmp_path / "models" / "mine"))
    (mine / "diary.txt").write_text("dear diary")
    assert "diary.txt" in run("rm", str(mine), "--yes", code=2)
    (mine / "diary.txt").unlink()
    (tmp_path / "link").symlink_to(mine)
    assert "is a link" in run("rm", str(tmp_path / "link"), "--yes", code=2)
    assert "part of the package" in run("rm", "icons", "--yes", code=2)
    assert str(mine.relative_to(tmp_path)) in run("list")
    assert "repeat the command with --yes" in run("rm", str(mine), code=2)
    run("rm", str(mine), "--yes")
    assert not mine.exists()


def test_what_is_no_model_is_not_pulled(hub: FakeHub, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text("{}")
    hub.publish("someone/other", tmp_path / "other")
    assert "no model of bitvar" in run("pull", "someone/other", code=3)
    assert "hub id is OWNER/NAME" in run("pull", "icons", code=2)
    assert "none of that name" in run("pull", "someone/nothing", code=3)
    assert not list(cache.glob("models--*"))


def test_push_is_private_and_has_a_card(hub: FakeHub, cache: Path, tiny_model: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(tiny_model, tmp_path / "mine"))
    made = json.loads(run("push", str(mine), "me/tiny", "--license", "mit", "--json"))
    assert made["private"] and hub.repositories["me/tiny"].private
    files = hub.repositories["me/tiny"].commits[made["commit"]]
    assert set(files) == set(made["files"]) | {".gitattributes"}
    card = files["README.md"].decode()
    for line in ("license: mit", "library_name: bitvar", "pipeline_tag: text-to-image", "--model me/tiny"):
        assert line in card
    assert (mine / "README.md").read_bytes() == (tiny_model / "README.md").read_bytes()
    run("pull", "me/tiny")
    assert run("verify", "me/tiny").startswith("good ")
    again = json.loads(run("push", str(mine), "me/tiny", "--license", "mit", "--public", "--json"))
    assert again["private"]  # an existing repository stays as it is


def test_a_push_replaces_an_earlier_one_and_nothing_else(
    hub: FakeHub, cache: Path, tiny_model: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(tiny_model, tmp_path / "mine"))
    run("push", str(mine), "me/tiny")
    smaller = InfinityPipeline.from_pretrained(mine, device="cpu")
    smaller.components.text_encoder = None
    smaller.save_pretrained(tmp_path / "smaller")
    run("push", str(tmp_path / "smaller"), "me/tiny")
    repository = hub.repositories["me/tiny"]
    assert not any(name.startswith("text_encoder/") for name in repository.commits[repository.branches["main"]])
    files = repository.commits[repository.branches["main"]]
    repository.commit({**files, "notes/mine.bin": b"x"})
    assert "notes/mine.bin" in run("push", str(mine), "me/tiny", code=2)


def test_a_push_that_is_refused(
    hub: FakeHub, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = Path(shutil.copytree(tiny_model, tmp_path / "damaged"))
    (damaged / "transformer" / "config.json").write_text("{}")
    run("push", str(damaged), "me/tiny", code=3)
    assert "no licence, so" in run("push", str(tiny_model), "tiny", code=2)
    assert "abbreviates" in run("push", str(tiny_model), "me/tiny", "--license", "MIT: mine", code=2)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "hf auth login" in run("push", str(tiny_model), "me/tiny", code=1)
    assert hub.repositories == {}


def test_push_from_python(hub: FakeHub, tiny_model: Path) -> None:
    pipe = InfinityPipeline.from_pretrained(tiny_model, device="cpu")
    made = pipe.push_to_hub("me/tiny", licence="mit")
    assert hub.repositories["me/tiny"].private and len(made.commit) == 40
