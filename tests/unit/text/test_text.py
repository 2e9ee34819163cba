"""Frozen text encoders: what they compute, that padding changes nothing, and that damaged folders are refused."""

import copy
import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.bert import BertModel
from transformers.models.t5 import T5Config, T5EncoderModel

from bitvar.errors import WeightsError
from bitvar.text import (
    MINILM,
    T5,
    MiniLMEncoder,
    T5Encoder,
    TextEncoder,
    TextEncoderConfig,
    load_text_encoder,
    published_settings,
)
from bitvar.text.bert import BertEncoder
from bitvar.text.files import special_tokens
from bitvar.text.prompt_tokenizer import PromptTokenizer
from bitvar.weights.hub import EMBEDDED_MODEL
from tests.support.tiny import TEXT_WIDTH, WORDS, tiny_text_encoder

PROMPTS = ["a dog", "two cats on a blue square left of a red circle", "green"]
END = 1
"""The id of T5's end token."""


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as their makers publish them: `tiny-text-encoder` (MiniLM) and `t5`."""
    folder = tmp_path_factory.mktemp("makers")
    tiny_text_encoder(folder)
    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=6
    )
    fast.save_pretrained(folder / "t5")
    sizes: dict[str, Any] = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": len(vocabulary),
    }
    model = T5EncoderModel(T5Config(**sizes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder / "t5")
    return folder


@pytest.fixture(scope="module")
def minilm(makers: Path) -> TextEncoder:
    settings = TextEncoderConfig(kind="minilm", hidden_states=(0, 2))
    return load_text_encoder(makers / "tiny-text-encoder", settings=settings)


@pytest.fixture(scope="module")
def t5(makers: Path) -> TextEncoder:
    return load_text_encoder(makers / "t5", settings=TextEncoderConfig(kind="t5"))


@pytest.fixture(params=["minilm", "t5"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    return request.getfixturevalue(request.param)


@pytest.fixture
def saved(minilm: TextEncoder, tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    folder.mkdir()
    minilm.save(folder)
    return folder


def test_kinds(minilm: TextEncoder, t5: TextEncoder) -> None:
    assert isinstance(minilm, MiniLMEncoder)
    assert isinstance(t5, T5Encoder)
    for encoder in (minilm, t5):
        assert not encoder.model.training
        assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_padding_changes_nothing(encoder: TextEncoder) -> None:
    together = encoder.encode(PROMPTS)
    assert together.features.shape[:2] == (3, max(map(encoder.num_tokens, PROMPTS)))
    assert together.features.dtype == torch.float32
    assert not together.dropped.any()
    for row, prompt in enumerate(PROMPTS):
        alone = encoder.encode([prompt])
        assert alone.mask.all()
        assert together.mask[row].sum() == alone.features.shape[1] == encoder.num_tokens(prompt)
        torch.testing.assert_close(together.features[row, together.mask[row]], alone.features[0])
        assert not together.features[row, ~together.mask[row]].any()


def test_the_order_of_prompts_changes_nothing(encoder: TextEncoder) -> None:
    forward, backward = encoder.encode(PROMPTS), encoder.encode(PROMPTS[::-1])
    torch.testing.assert_close(backward.features.flip(0), forward.features)
    assert torch.equal(backward.mask.flip(0), forward.mask)


def test_special_tokens_count_and_nothing_is_cut_off(minilm: TextEncoder, t5: TextEncoder) -> None:
    for text, words in (("dog", 1), ("a red dog", 3), ("a " * 25, 25)):
        assert minilm.num_tokens(text) == words + 2
        assert t5.num_tokens(text) == words + 1  # though its makers' settings say 6 at most
        assert t5.encode([text]).features.shape[1] == words + 1
    assert minilm.num_tokens("dogs") == 4  # dog ##s


def test_minilm_is_its_hidden_states_in_order(minilm: TextEncoder, makers: Path) -> None:
    makers_own = BertModel.from_pretrained(makers / "tiny-text-encoder", add_pooling_layer=False).eval()
    ids = torch.tensor([minilm.tokenizer(PROMPTS[1])])
    with torch.no_grad():
        states = makers_own(input_ids=ids, output_hidden_states=True).hidden_states
    features = minilm.encode([PROMPTS[1]]).features
    assert features.shape == (1, ids.shape[1], TEXT_WIDTH)
    assert torch.equal(features, torch.cat([states[0], states[2]], dim=-1))
    for chosen in ((2, 0), (1,), (0, 1, 2)):
        encoder = MiniLMEncoder(minilm.model, minilm.tokenizer, chosen)
        assert torch.equal(encoder.encode([PROMPTS[1]]).features, torch.cat([states[i] for i in chosen], dim=-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_minilm_computes_the_bits_of_transformers(dtype: torch.dtype) -> None:
    """The encoder that ships, on prompts by themselves and in a batch with padding."""
    folder = EMBEDDED_MODEL / "text_encoder"
    encoder = load_text_encoder(folder, dtype=dtype)
    words = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special_tokens(folder))
    model = BertModel.from_pretrained(folder, dtype=dtype, add_pooling_layer=False, attn_implementation="sdpa").eval()
    prompts = ["a red apple", "two cats on a blue background, flat design", "[MASK] caf\u00e9 \U0001f600", ""]
    batch = words(prompts, padding=True, return_tensors="pt")
    rows = [words([prompt], return_tensors="pt") for prompt in prompts]
    assert [encoder.ids(prompt) for prompt in prompts] == [row["input_ids"][0].tolist() for row in rows]
    with torch.inference_mode():
        alone = [model(**row, output_hidden_states=True).hidden_states for row in rows]
        together = model(**batch, output_hidden_states=True).hidden_states
    for prompt, states in zip(prompts, alone, strict=True):
        assert torch.equal(encoder.encode([prompt]).features, torch.cat([states[1], states[6]], dim=-1))
    found, mask = encoder.encode(prompts).features, batch["attention_mask"].bool()
    assert torch.equal(found[mask], torch.cat([together[1], together[6]], dim=-1)[mask])


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
def test_every_activation_is_that_of_transformers(activation: str, saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text()) | {"hidden_act": activation}
    (saved / "config.json").write_text(json.dumps(config))
    model = BertModel.from_pretrained(saved, add_pooling_layer=False).eval()
    encoder = load_text_encoder(saved)
    with torch.no_grad():
        states = model(torch.tensor([encoder.ids("a dog")]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoder.encode(["a dog"]).features, torch.cat([states[0], states[2]], dim=-1))


def test_weights_under_older_names_are_read(minilm: TextEncoder, saved: Path) -> None:
    """Files of a BERT with a head have a prefix, and the first ones called weight and bias of norms gamma and beta."""
    tensors = load_file(saved / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for now, before in old.items():
        tensors = {name.replace(now, before): tensor for name, tensor in tensors.items()}
    save_file({f"bert.{name}": tensor for name, tensor in tensors.items()}, saved / "model.safetensors")
    assert torch.equal(load_text_encoder(saved).encode(PROMPTS).features, minilm.encode(PROMPTS).features)


@pytest.mark.parametrize("kind", ["minilm", "t5"])
def test_a_saved_vocabulary_is_what_transformers_writes(kind: str, makers: Path, tmp_path: Path) -> None:
    source = makers / {"minilm": "tiny-text-encoder", "t5": "t5"}[kind]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    ours.mkdir()
    PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), **special_tokens(source)).save_pretrained(
        theirs
    )
    PromptTokenizer.load(source).save(ours)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_special_tokens_that_the_vocabulary_lacks_are_added(makers: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(makers / "t5", tmp_path / "t5"))
    values = json.loads((source / "tokenizer.json").read_text())
    values |= {
        "added_tokens": [],
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    }
    (source / "tokenizer.json").write_text(json.dumps(values))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), **special_tokens(source))
    theirs.backend_tokenizer.no_truncation()
    prompt = "a dog </s> on a <pad> red square"
    assert PromptTokenizer.load(source)(prompt) == theirs(prompt)["input_ids"]


def test_transformers_reads_a_saved_folder(minilm: TextEncoder, saved: Path) -> None:
    loaded: Any = BertModel.from_pretrained(saved, add_pooling_layer=False, output_loading_info=True)
    model, info = loaded
    assert not any(info.values())
    assert model.config.hidden_act == "gelu"
    words = AutoTokenizer.from_pretrained(saved)
    assert words(PROMPTS)["input_ids"] == [minilm.ids(prompt) for prompt in PROMPTS]
    with torch.no_grad():
        states = model.eval()(torch.tensor([minilm.ids("a dog")]), output_hidden_states=True).hidden_states
    assert torch.equal(minilm.encode(["a dog"]).features, torch.cat([states[0], states[2]], dim=-1))


def test_an_encoder_can_be_copied_and_pickled(encoder: TextEncoder) -> None:
    expected = encoder.encode(PROMPTS).features
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(twin.encode(PROMPTS).features, expected)


def test_t5_is_its_makers_last_hidden_state(t5: TextEncoder, makers: Path) -> None:
    makers_own = T5EncoderModel.from_pretrained(makers / "t5").eval()
    ids = t5.tokenizer(PROMPTS[1])
    assert ids[-1] == END
    with torch.no_grad():
        expected = makers_own(input_ids=torch.tensor([ids])).last_hidden_state
    features = t5.encode([PROMPTS[1]]).features
    assert features.shape == (1, len(ids), 32)
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("kind", ["minilm", "t5"])
def test_a_folder_comes_back_in_fp16(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    encoder: TextEncoder = request.getfixturevalue(kind)
    encoder.save(tmp_path)
    settings = TextEncoderConfig.load(tmp_path / "bitvar.json")
    assert (settings.kind, settings.hidden_states) == (kind, encoder.hidden_states)
    exact = load_text_encoder(tmp_path)
    assert torch.equal(exact.encode(PROMPTS).features, encoder.encode(PROMPTS).features)
    (tmp_path / "half").mkdir()
    load_text_encoder(tmp_path, dtype=torch.float16).save(tmp_path / "half")
    weights = load_file(tmp_path / "half" / "model.safetensors")
    assert torch.float16 in {tensor.dtype for tensor in weights.values()}
    half = load_text_encoder(tmp_path / "half")  # rounded once, computed in fp32
    assert type(half) is type(encoder)
    assert half.hidden_states == encoder.hidden_states
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    for name, parameter in encoder.model.state_dict().items():
        torch.testing.assert_close(half.model.state_dict()[name], parameter, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(half.encode(PROMPTS).features, encoder.encode(PROMPTS).features, rtol=0.02, atol=0.02)
    assert [half.num_tokens(text) for text in PROMPTS] == [encoder.num_tokens(text) for text in PROMPTS]


def test_saving_does_not_depend_on_what_was_encoded(saved: Path, tmp_path: Path) -> None:
    texts = []
    for prompts in ([], PROMPTS):
        encoder = load_text_encoder(saved)
        if prompts:
            encoder.encode(prompts)
        out = tmp_path / f"after-{len(prompts)}"
        out.mkdir()
        encoder.save(out)
        texts.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert texts[0] == texts[1]


def test_loading_and_saving_say_nothing(
    makers: Path, saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Their maker's file holds a pooler, which is rightly not read."""
    with_pooler = tmp_path / "with-pooler"
    shutil.copytree(saved, with_pooler)
    weights = load_file(with_pooler / "model.safetensors")
    pooler = {"pooler.dense.weight": torch.zeros(32, 32), "pooler.dense.bias": torch.zeros(32)}
    save_file(weights | pooler, with_pooler / "model.safetensors", metadata={"format": "pt"})
    capfd.readouterr()
    loaded = [load_text_encoder(folder) for folder in (saved, with_pooler)]
    loaded.append(load_text_encoder(makers / "t5", settings=TextEncoderConfig(kind="t5")))
    for encoder in loaded:
        encoder.encode(PROMPTS)
        encoder.encode(["a " * 25])
    assert capfd.readouterr() == ("", "")
    for i, encoder in enumerate(loaded):
        (tmp_path / str(i)).mkdir()
        encoder.save(tmp_path / str(i))
    assert capfd.readouterr() == ("", "")


def test_loading_leaves_transformers_as_talkative_as_it_was(makers: Path) -> None:
    from transformers.utils import logging as talk

    for bars, level in ((True, logging.INFO), (False, logging.WARNING)):
        before = talk.get_verbosity(), talk.is_progress_bar_enabled()
        try:
            talk.set_verbosity(level)
            (talk.enable_progress_bar if bars else talk.disable_progress_bar)()
            load_text_encoder(makers / "t5", settings=T5)
            assert (talk.get_verbosity(), talk.is_progress_bar_enabled()) == (level, bars)
        finally:
            talk.set_verbosity(before[0])
            (talk.enable_progress_bar if before[1] else talk.disable_progress_bar)()


def test_an_unknown_kind(saved: Path) -> None:
    (saved / "bitvar.json").write_text(json.dumps({"kind": "clip"}))
    with pytest.raises(WeightsError, match=r"'clip'[\s\S]*minilm[\s\S]*t5"):
        load_text_encoder(saved)


def absent(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def a_list(path: Path) -> None:
    path.write_text("[]")


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize("damage", [absent, truncated, a_list, not_text])
@pytest.mark.parametrize(
    "name", ["bitvar.json", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_an_unreadable_file(damage: Callable[[Path], None], name: str, saved: Path) -> None:
    damage(saved / name)
    with pytest.raises(WeightsError, match=r"[\s\S]*do:") as caught:
        load_text_encoder(saved)
    assert str(saved) in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        load_text_encoder(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="nowhere"):
        load_text_encoder(tmp_path / "nowhere", settings=TextEncoderConfig(kind="t5"))


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


LAYER = "encoder.layer.1.attention.self.query.weight"


def test_a_missing_tensor_is_not_made_up(saved: Path) -> None:
    edit_weights(saved, lambda weights: weights.pop(LAYER))
    with pytest.raises(WeightsError, match="encoder"):
        load_text_encoder(saved)


def test_a_misshapen_tensor_is_refused(saved: Path) -> None:
    edit_weights(saved, lambda weights: weights.update({LAYER: torch.zeros(3, 3)}))
    with pytest.raises(WeightsError, match="encoder"):
        load_text_encoder(saved)


@pytest.mark.parametrize("chosen", [[], [3], [-4]])
def test_hidden_states_must_exist(chosen: list[int], saved: Path) -> None:
    (saved / "bitvar.json").write_text(json.dumps({"kind": "minilm", "hidden_states": chosen}))
    with pytest.raises(WeightsError, match="hidden_states"):
        load_text_encoder(saved)


def test_a_folder_of_another_kind_is_refused(saved: Path) -> None:
    (saved / "bitvar.json").write_text(json.dumps({"kind": "t5"}))
    with pytest.raises(WeightsError):
        load_text_encoder(saved)


def test_a_folder_needs_no_code_of_its_own(saved: Path) -> None:
    """Which class reads it is written in the package, never in the folder."""
    config = json.loads((saved / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "evil.Model"}, "architectures": ["EvilModel"]}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    with pytest.raises(WeightsError, match=r"evil\.py"):
        load_text_encoder(saved)
    (saved / "evil.py").unlink()
    assert isinstance(load_text_encoder(saved).model, BertEncoder)


def test_the_device_follows_the_model(minilm: TextEncoder) -> None:
    assert minilm.to(torch.device("cpu")) is minilm
    assert minilm.encode(["a dog"]).features.device == torch.device("cpu")
    assert minilm.encode(["a dog"]).mask.device == torch.device("cpu")


def test_features_carry_no_gradient(encoder: TextEncoder) -> None:
    assert not encoder.encode(["a dog"]).features.requires_grad
    assert torch.is_grad_enabled()


def test_positions_end_where_the_makers_say(minilm: TextEncoder) -> None:
    assert minilm.max_tokens == 32
    assert minilm.encode(["a " * 30]).features.shape[1] == 32


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"model_type": "t5"}', T5),
        ('{"model_type": "bert"}', MINILM),
        ('{"model_type": "gpt2"}', None),
        ("[]", None),
        ("{", None),
        (None, None),
    ],
)
def test_a_makers_folder_says_how_to_read_it(
    tmp_path: Path, content: str | None, expected: TextEncoderConfig | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert published_settings(tmp_path) == expected
