"""What a text encoder's folder may say: nothing in it names code, a kernel, or a place to fetch something from."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from bitvar.errors import WeightsError
from bitvar.text import MINILM, T5, load_text_encoder
from bitvar.weights.digests import write_manifest
from bitvar.weights.hub import EMBEDDED_MODEL
from bitvar.weights.model_folder import load_folder
from bitvar.weights.official.convert import convert_to_folder
from tests.unit.weights.test_convert import write_pair

PROMPTS = ["a dog", "two cats on a blue background"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"the network was reached for: {arguments}")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def encoder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model / "text_encoder", tmp_path / "text_encoder"))


def update(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


KEYS: dict[str, dict[str, Any]] = {
    "a kernel of the hub": {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"},
    "a kernel, inside": {"_attn_implementation_internal": "evil/kernel", "attn_implementation": {"": "evil/kernel"}},
    "code": {"auto_map": {"AutoModel": "evil/repo--evil.Evil"}, "trust_remote_code": True},
    "quantisation": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    "another place": {"_name_or_path": "evil/repo", "transformers_weights": "evil.bin"},
    "another precision": {"torch_dtype": "float8_e4m3fn", "dtype": "int8"},
    "a precision that is none": {"torch_dtype": {"a": 1}, "dtype": 5},
    "kernels": {"use_kernels": True, "kernel_config": {"RMSNorm": "evil/kernel"}, "experts_implementation": "evil"},
    "another class": {"architectures": ["EvilModel"], "tokenizer_class": "EvilTokenizer"},
    "what is kept of outputs": {"output_attentions": True, "output_hidden_states": True, "return_dict": False},
    "pruned heads": {"pruned_heads": {"0": [0, 1]}, "chunk_size_feed_forward": 7},
    "dropout": {"hidden_dropout_prob": 1.0, "attention_probs_dropout_prob": 1.0},
}


@pytest.mark.parametrize("name", list(KEYS))
def test_keys_that_say_nothing_of_what_is_computed_are_left_out(name: str, encoder: Path) -> None:
    expected = load_text_encoder(encoder).encode(PROMPTS)
    update(encoder / "config.json", **KEYS[name])
    found = load_text_encoder(encoder)
    assert torch.equal(found.encode(PROMPTS).features, expected.features)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_act": "evil"},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"num_attention_heads": 7},
        {"hidden_size": 384.5},
        {"layer_norm_eps": -1},
        {"vocab_size": "many"},
        {"pad_token_id": -5},
    ],
)
def test_keys_that_compute_something_else_are_refused(values: dict[str, Any], encoder: Path) -> None:
    update(encoder / "config.json", **values)
    with pytest.raises(WeightsError, match="why:"):
        load_text_encoder(encoder)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "modeling_evil.py", "x.so"]
)
@pytest.mark.parametrize("published", [False, True])
def test_adapters_and_code_beside_the_weights_are_refused(name: str, published: bool, encoder: Path) -> None:
    (encoder / name).write_text("{}")
    if published:
        (encoder / "bitvar.json").unlink()
    with pytest.raises(WeightsError, match=f"don't belong there: {name}"):
        load_text_encoder(encoder, settings=MINILM if published else None)


def test_an_adapter_in_a_model_folder_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "text_encoder" / "adapter_config.json").write_text("{}")
    write_manifest(folder)
    with pytest.raises(WeightsError, match=r"adapter_config\.json"):
        load_folder(folder, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("found", ["clip_text_model", "roberta", "mt5", "gemma2", None, 5])
def test_another_model_is_named_with_what_is_supported(found: Any, encoder: Path) -> None:
    update(encoder / "config.json", model_type=found)
    with pytest.raises(WeightsError) as caught:
        load_text_encoder(encoder)
    text = str(caught.value)
    assert repr(str(found)) in text
    assert "t5 (google/flan-t5-xl)" in text
    assert "bert (all-MiniLM-L6-v2)" in text
    assert "download the model again" not in text


def test_convert_names_another_text_encoder(tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path / "in")
    encoder = Path(shutil.copytree(EMBEDDED_MODEL / "text_encoder", tmp_path / "text_encoder"))
    (encoder / "bitvar.json").unlink()
    with pytest.raises(WeightsError, match="its features are 768 wide, the transformer reads 64"):
        convert_to_folder(transformer, tokenizer, tmp_path / "model", text_encoder=encoder)
    update(encoder / "config.json", model_type="clip_text_model")
    with pytest.raises(WeightsError, match="'clip_text_model'"):
        convert_to_folder(transformer, tokenizer, tmp_path / "model", text_encoder=encoder)


def test_a_folder_with_pickles_alone_says_what_to_get(encoder: Path) -> None:
    (encoder / "model.safetensors").unlink()
    (encoder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"but pytorch_model\.bin[\s\S]*download its safetensors"):
        load_text_encoder(encoder)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 5}', '{"weight_map": {"a": "../x.safetensors"}}', "[]"])
def test_an_index_that_leads_elsewhere_is_refused(content: str, encoder: Path) -> None:
    (encoder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError):
        load_text_encoder(encoder)


def test_weights_in_several_files_are_read(encoder: Path) -> None:
    from safetensors.torch import load_file, save_file

    expected = load_text_encoder(encoder).encode(PROMPTS).features
    tensors = load_file(encoder / "model.safetensors")
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, encoder / file)
    places = {name: file for file, own in parts.items() for name in own}
    (encoder / "model.safetensors").unlink()
    (encoder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(load_text_encoder(encoder).encode(PROMPTS).features, expected)


def test_a_published_folder_of_another_kind_than_asked_for(encoder: Path) -> None:
    (encoder / "bitvar.json").unlink()
    with pytest.raises(WeightsError, match=r"model type 'bert'[\s\S]*a t5 is expected"):
        load_text_encoder(encoder, settings=T5)


@pytest.mark.parametrize(("width", "tokens"), [(64, None), (768, 513)])
def test_an_encoder_that_does_not_fit_the_transformer_is_refused(
    width: int, tokens: int | None, tmp_path: Path
) -> None:
    from bitvar.transformer import TransformerConfig
    from bitvar.weights.model_folder import check_encoder

    config = TransformerConfig.load(EMBEDDED_MODEL / "transformer" / "config.json")
    config = config.model_copy(update={"text_width": width, "max_text_tokens": tokens or 64})
    with pytest.raises(WeightsError, match="does not belong"):
        check_encoder(config, load_text_encoder(EMBEDDED_MODEL / "text_encoder"), "x")


@pytest.mark.parametrize(
    "single",
    [
        [],
        [{"Sequence": {"id": "B", "type_id": 0}}],
        [{"SpecialToken": {"id": "[FAR]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    ],
    ids=["nothing", "a second text", "a token without an embedding"],
)
def test_a_vocabulary_that_breaks_down_is_refused_at_load(
    single: list[Any], encoder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = encoder / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    far = {"[FAR]": {"id": "[FAR]", "ids": [10**6], "tokens": ["[FAR]"]}}
    values["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": far}
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(WeightsError, match="vocabulary can't read"):
        load_text_encoder(encoder)
    assert capfd.readouterr().err == ""


def test_saved_weights_are_for_everybody_whom_other_files_are_for(tmp_path: Path, encoder: Path) -> None:
    (tmp_path / "saved").mkdir()
    load_text_encoder(encoder).save(tmp_path / "saved")
    assert len({path.stat().st_mode for path in (tmp_path / "saved").iterdir()}) == 1
