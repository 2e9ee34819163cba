"""Official checkpoints in and out: every published list of names, every kind of file, and every way to be wrong."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.t5 import T5Config, T5EncoderModel
from typer.testing import CliRunner

from bitvar.cli.main import app
from bitvar.codec import ImageCodec
from bitvar.errors import UsageError, WeightsError
from bitvar.official_schedules import official_schedule
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.training.tokenizer.warm_start import TokenizerOrigin
from bitvar.transformer import InfinityTransformer, TransformerConfig
from bitvar.weights.index import ModelIndex
from bitvar.weights.model_folder import load_folder, save_folder
from bitvar.weights.official.convert import (
    EDITOR_SETTINGS,
    check_names,
    convert_to_folder,
    convert_to_official,
    convert_tokenizer,
    is_official_tokenizer,
)
from bitvar.weights.official.files import read_official, write_official
from bitvar.weights.official.names import (
    Converted,
    OfficialBuffer,
    OfficialLayout,
    from_official,
    to_official,
)
from tests.support.tiny import tiny_text_encoder, tiny_tokenizer, tiny_transformer

OFFICIAL: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "reference" / "official_checkpoints.json").read_text(encoding="utf-8")
)
MASK = 2 ** torch.arange(3, -1, -1)
CPU = torch.device("cpu")


def state(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype, bytes]]:
    """Everything about tensors that must survive."""
    return {
        name: (tuple(t.shape), t.dtype, t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, t in tensors.items()
    }


def sha256(path: Path) -> dict[str, str]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def zero_k_biases(chunks: int, depth: int = 4, width: int = 32) -> dict[str, OfficialBuffer]:
    per_chunk = depth // chunks
    blocks = [
        f"blocks.{i}" if chunks == 1 else f"block_chunks.{i // per_chunk}.module.{i % per_chunk}" for i in range(depth)
    ]
    owners = ["text_proj_for_sos.ca", *(f"{block}.{part}" for block in blocks for part in ("sa", "ca"))]
    return {f"{owner}.zero_k_bias": OfficialBuffer(dtype="bfloat16", shape=(width,)) for owner in owners}


def official_transformer(*, chunks: int = 2, buffers: bool = True, **changes: Any) -> dict[str, Tensor]:
    model = tiny_transformer(depth=4, schedules=(), **({"max_scales": 15} | changes))
    layout = OfficialLayout(block_chunks=chunks, buffers=zero_k_biases(chunks) if buffers else {})
    return to_official(model.config, model.state_dict(), layout)


def official_tokenizer(*, inner_names: bool = True, buffers: bool = True, **changes: Any) -> dict[str, Tensor]:
    model = tiny_tokenizer(**changes)
    tensors = to_official(model.config, model.state_dict(), OfficialLayout(inner_names=inner_names))
    if buffers:
        mask = 2 ** torch.arange(model.config.bits - 1, -1, -1)
        tensors |= {"quantizer.lfq.mask": mask, "quantize.lfq.mask": mask.clone()}
    return tensors


def write_pair(folder: Path, names: tuple[str, str] = ("model", "vae"), **changes: Any) -> tuple[Path, Path]:
    """A transformer and its tokenizer, as the official files nest them."""
    folder.mkdir(exist_ok=True)
    transformer, tokenizer = folder / f"{names[0]}.pth", folder / f"{names[1]}.pth"
    write_official(official_transformer(**changes), transformer)
    write_official(official_tokenizer(), tokenizer, nesting=("vae",))
    return transformer, tokenizer


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_published_name_and_shape_both_ways(name: str) -> None:
    shapes = {key: tuple(shape) for key, shape in OFFICIAL[name]["tensors"].items()}
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    converted = from_official(tensors, source=name)
    with torch.device("meta"):
        if isinstance(converted.config, TransformerConfig):
            model: torch.nn.Module = InfinityTransformer(converted.config)
        else:
            model = InfinityTokenizer(converted.config)
    model.load_state_dict(converted.tensors, strict=True, assign=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == OFFICIAL[name]["parameters"]
    check_config(converted, OFFICIAL[name]["config"])
    back = to_official(converted.config, model.state_dict(), converted.layout)
    assert {key: tuple(tensor.shape) for key, tensor in back.items()} == shapes


def check_config(converted: Converted, expected: dict[str, Any]) -> None:
    config = converted.config
    if isinstance(config, TokenizerConfig):
        assert config.bits == expected["bits"]
        assert config.stride == expected["downsample"]
        assert config.base_channels == expected["base_channels"]
        assert config.res_blocks == expected["res_blocks"]
        assert list(config.channel_multipliers) == expected["channel_multipliers"]
        return
    assert (config.depth, config.width, config.num_heads) == tuple(
        expected[key] for key in ("depth", "embed_dim", "num_heads")
    )
    assert (config.text_width, config.max_text_tokens) == (expected["text_channels"], expected["text_maxlen"])
    assert config.bits == expected["tokenizer_bits"] * config.patch_size**2
    assert (config.patch_size == 2) == expected["spatial_patchify"]
    assert converted.layout.block_chunks == expected["block_chunks"]


def flat(tensors: dict[str, Tensor], folder: Path) -> Path:
    torch.save(tensors, folder / "file.pth")
    return folder / "file.pth"


def under_vae(tensors: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"vae": tensors, "epoch": 3}, folder / "file.pt")
    return folder / "file.pt"


def under_trainer(tensors: dict[str, Tensor], folder: Path) -> Path:
    trainer = {"gpt_fsdp": tensors, "gpt_fsdp_opt": {"state": {0: torch.ones(2)}}, "config": {"lr": 1e-4}}
    torch.save({"args": {"tblr": 6e-3}, "epoch": 1, "iter": 2, "acc_str": "", "trainer": trainer}, folder / "file.pth")
    return folder / "file.pth"


def safetensors(tensors: dict[str, Tensor], folder: Path) -> Path:
    save_file(tensors, folder / "file.safetensors")
    return folder / "file.safetensors"


def shards(tensors: dict[str, Tensor], folder: Path, suffix: str = ".bin") -> Path:
    whole = folder / "sharded_weights"
    whole.mkdir()
    names = sorted(tensors)
    parts = {f"part-1{suffix}": names[: len(names) // 2], f"part-2{suffix}": names[len(names) // 2 :]}
    for file, keys in parts.items():
        part = {key: tensors[key] for key in keys}
        if suffix == ".safetensors":
            save_file(part, whole / file)
        else:
            torch.save(part, whole / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    (whole / "model.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return whole


def safetensors_shards(tensors: dict[str, Tensor], folder: Path) -> Path:
    return shards(tensors, folder, ".safetensors")


Writer = Callable[[dict[str, Tensor], Path], Path]


@pytest.mark.parametrize(
    ("write", "write_tokenizer", "chunks", "inner_names", "buffers"),
    [
        (flat, under_vae, 1, True, True),
        (under_trainer, flat, 2, False, True),
        (safetensors, safetensors, 4, True, False),
        (shards, under_vae, 2, False, False),
        (safetensors_shards, under_vae, 1, True, True),
    ],
)
def test_there_and_back(
    write: Writer, write_tokenizer: Writer, chunks: int, inner_names: bool, buffers: bool, tmp_path: Path
) -> None:
    before = official_transformer(chunks=chunks, buffers=buffers)
    before["head.weight"] = before["head.weight"].bfloat16()  # published files mix dtypes
    tokenizer_before = official_tokenizer(inner_names=inner_names, buffers=buffers)
    for name in ("t", "v"):
        (tmp_path / name).mkdir()
    transformer, tokenizer = write(before, tmp_path / "t"), write_tokenizer(tokenizer_before, tmp_path / "v")
    digests = sha256(tmp_path)
    folder = convert_to_folder(transformer, tokenizer, tmp_path / "model", name="small")
    loaded = load_folder(folder, dtype=torch.float32, device=CPU)
    assert loaded.index.name == "small"
    assert loaded.transformer.config.budgets == ("0.06M",)
    paths = convert_to_official(folder, tmp_path / "back")
    same = transformer.stem == tokenizer.stem  # they came from two folders
    assert [path.stem for path in paths] == [transformer.stem, tokenizer.stem + "_tokenizer" * same]
    assert state(read_official(paths[0])) == state(before)
    assert state(read_official(paths[1])) == state(tokenizer_before)
    assert "vae" in torch.load(paths[1], weights_only=True)
    assert {path: digest for path, digest in sha256(tmp_path).items() if path in digests} == digests


def test_a_buffer_unlike_the_others_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = official_tokenizer() | {"quantize.lfq.mask": MASK.flip(0).double()}
    transformer, _ = write_pair(tmp_path)
    write_official(tensors, tmp_path / "odd.pth")
    folder = convert_to_folder(transformer, tmp_path / "odd.pth", tmp_path / "model")
    _, back = convert_to_official(folder, tmp_path / "back")
    assert state(read_official(back)) == state(tensors)


def test_the_mask_of_64_bits_survives_json() -> None:
    mask = 2 ** torch.arange(63, -1, -1)  # its first value is -2^63, as in the official files
    converted = from_official(official_tokenizer(bits=64, buffers=False) | {"quantizer.lfq.mask": mask}, source="file")
    buffer = converted.layout.buffers["quantizer.lfq.mask"]
    again = OfficialLayout(buffers={"quantizer.lfq.mask": OfficialBuffer.model_validate_json(buffer.dump())})
    restored = to_official(converted.config, converted.tensors, again)["quantizer.lfq.mask"]
    assert restored.dtype == torch.int64
    assert torch.equal(restored, mask)


@pytest.mark.slow
def test_a_full_size_tokenizer_there_and_back(tmp_path: Path) -> None:
    entry = OFFICIAL["infinity_vae_d16"]["tensors"]
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in entry.items() if "mask" not in name}
    tensors |= {name: 2 ** torch.arange(15, -1, -1) for name in entry if "mask" in name}
    write_official(tensors, tmp_path / "vae.pth", nesting=("vae",))
    model = tiny_transformer(bits=16, schedules=())
    write_official(to_official(model.config, model.state_dict(), OfficialLayout()), tmp_path / "model.pth")
    folder = convert_to_folder(tmp_path / "model.pth", tmp_path / "vae.pth", tmp_path / "model")
    _, back = convert_to_official(folder, tmp_path / "back")
    assert state(read_official(back)) == state(tensors)


def test_every_wrong_tensor_is_named() -> None:
    tensors = official_transformer()
    del tensors["pos_start"]
    del tensors["block_chunks.1.module.0.sa.q_bias"]
    tensors["surprise"] = torch.zeros(3)
    tensors["head.bias"] = torch.zeros(5)
    tensors["word_embed.bias"] = torch.zeros(32, dtype=torch.int32)
    with pytest.raises(WeightsError) as caught:
        from_official(tensors, source="file.pth")
    for line in (
        "missing: pos_start [1, 1, 32]",
        "missing: block_chunks.1.module.0.sa.q_bias [32]",
        "unexpected: surprise [3]",
        "misshapen: head.bias is [5], expected [8]",
        "not floating-point: word_embed.bias is torch.int32",
    ):
        assert line in str(caught.value)


def wrong_tensors() -> dict[str, tuple[dict[str, Tensor], str]]:
    transformer, tokenizer = official_transformer(), official_tokenizer()
    nonzero = transformer | {"text_proj_for_sos.ca.zero_k_bias": torch.ones(32)}
    long_mask = tokenizer | {"quantizer.lfq.mask": torch.ones(5)}
    return {
        "lora": (transformer | {"head.lora_A.weight": torch.zeros(2, 2)}, "LoRA"),
        "nonzero k bias": (nonzero, "not zero: text_proj_for_sos.ca.zero_k_bias"),
        "misplaced buffer": (transformer | {"head.zero_k_bias": torch.zeros(32)}, "unexpected: head.zero_k_bias"),
        "misshapen buffer": (long_mask, "misshapen: quantizer.lfq.mask"),
        "buffer dtype": (tokenizer | {"quantizer.lfq.mask": MASK.to(torch.uint8)}, "quantizer.lfq.mask"),
        "another model": ({"weight": torch.zeros(2)}, "neither an Infinity transformer nor its tokenizer"),
        "one axis": (transformer | {"word_embed.weight": torch.zeros(3)}, "expected 2 dimensions"),
        "no blocks": ({n: t for n, t in transformer.items() if "block" not in n}, "lacks blocks.0"),
        "bad sizes": (transformer | {"word_embed.weight": torch.zeros(31, 4)}, "must be num_heads"),
        "no tokenizer levels": ({n: t for n, t in tokenizer.items() if ".down." not in n}, "channel_multipliers"),
        "tokenizer widths": (
            tokenizer | {"encoder.down.1.block.0.conv2.conv.weight": torch.zeros(7, 7, 3, 3)},
            "misshapen: encoder.down.1.block.0.conv2.conv.weight",
        ),
        "a chunk short": (
            {n: t for n, t in transformer.items() if "chunks.1.module.1" not in n},
            "unexpected: block_chunks.0.module.1",
        ),
    }


@pytest.mark.parametrize("case", wrong_tensors())
def test_wrong_tensors_are_refused(case: str) -> None:
    tensors, message = wrong_tensors()[case]
    with pytest.raises(WeightsError) as caught:
        from_official(tensors, source="file.pth")
    assert message in str(caught.value)


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))


def test_a_hostile_pickle_does_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"cfg_uncond": torch.zeros(2, 2), "x": Hostile(canary)}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="could run code"):
        read_official(tmp_path / "file.pth")
    assert not canary.exists()


def damaged_files(folder: Path) -> dict[str, Path]:
    """Files that are no checkpoints, each wrong in its own way."""
    good = flat({"weight": torch.randn(1000)}, folder).read_bytes()
    save_file({"weight": torch.randn(1000)}, folder / "good.safetensors")
    good_safetensors = (folder / "good.safetensors").read_bytes()
    contents = {
        "truncated.pth": good[: len(good) // 2],
        "bad_middle.pth": good.replace(b"weight", b"\xff" * 6).replace(b"storage", b"\xfftorage"),
        "empty.pth": b"",
        "text.bin": b"<html>not found</html>",
        "truncated.safetensors": good_safetensors[:-100],
        "empty.safetensors": b"",
        "image.png": b"png",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    values: dict[str, Any] = {
        "list.pth": [torch.zeros(2)],
        "nothing.pth": {},
        "numbers.pth": {"weight": 3},
        "indices.pth": {0: torch.zeros(2)},
        "sparse.pth": {"weight": torch.eye(3).to_sparse()},
        "no_model.pth": {"trainer": {"gpt_wo_ddp": {}}},
        "unknown_companion.pth": {"vae": {"weight": torch.zeros(2)}, "discriminator": {"weight": torch.zeros(2)}},
    }
    for name, value in values.items():
        torch.save(value, folder / name)
    return {name: folder / name for name in [*contents, *values, "absent.pth"]}


def test_damaged_files_are_weights_errors(tmp_path: Path) -> None:
    for name, path in damaged_files(tmp_path).items():
        with pytest.raises(WeightsError) as caught:
            read_official(path)
        assert path.name in str(caught.value), name
        assert name == "absent.pth" or "why:" in str(caught.value), name
        assert "do:" in str(caught.value), name


def lose_a_shard(folder: Path) -> None:
    (folder / "part-2.bin").unlink()


def lose_the_index(folder: Path) -> None:
    (folder / "model.index.json").unlink()


def break_the_index(folder: Path) -> None:
    (folder / "model.index.json").write_text("{")


def leave_the_folder(folder: Path) -> None:
    (folder / "model.index.json").write_text(json.dumps({"weight_map": {"weight": "../file.pth"}}))


def move_a_tensor(folder: Path) -> None:
    torch.save({"other": torch.zeros(2)}, folder / "part-1.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_shard, "lacks the shard part-2.bin"),
        (lose_the_index, "not a sharded checkpoint"),
        (break_the_index, "not JSON"),
        (leave_the_folder, "no index of shards"),
        (move_a_tensor, "doesn't match its index"),
    ],
)
def test_damaged_shards_are_weights_errors(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = shards({"weight": torch.zeros(2), "bias": torch.zeros(2)}, tmp_path)
    damage(folder)
    with pytest.raises(WeightsError) as caught:
        read_official(folder)
    assert message in str(caught.value)


def test_writing_refuses_what_it_can_not_write(tmp_path: Path) -> None:
    for path, nesting in ((tmp_path / "x.ckpt", ()), (tmp_path / "x.safetensors", ("vae",))):
        with pytest.raises(UsageError, match="Can't write"):
            write_official({"weight": torch.zeros(2)}, path, nesting=nesting)
    assert not list(tmp_path.iterdir())


def test_a_view_is_written_alone(tmp_path: Path) -> None:
    big = torch.randn(100_000)
    write_official({"a": big[:10], "b": big[:10]}, tmp_path / "x.safetensors")
    write_official({"a": big[:10], "b": big[:10]}, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 10_000
    assert torch.equal(load_file(tmp_path / "x.safetensors")["b"], read_official(tmp_path / "x.pth")["a"])


@pytest.mark.parametrize(
    ("transformer", "tokenizer", "right"),
    [
        ("infinity_2b_reg.pth", "infinity_vae_d32.pth", "infinity_vae_d32reg"),
        ("infinity_2b_reg.pth", "infinity_vae_d16.pth", "infinity_vae_d32reg"),
        ("infinity_8b_weights", "infinity_vae_d64.pth", "infinity_vae_d56_f8_14_patchify"),
    ],
)
def test_known_bad_pairs_are_refused_by_name(transformer: str, tokenizer: str, right: str) -> None:
    with pytest.raises(WeightsError, match=f"trained with {right}"):
        check_names(Path(transformer), Path(tokenizer))
    check_names(Path(transformer), Path(f"{right}.pth"))
    check_names(Path(transformer), Path("mine.pth"))
    check_names(Path("mine.pth"), Path(tokenizer))


def test_a_bad_pair_of_equal_bits_is_refused_and_nothing_written(tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path / "in", ("infinity_2b_reg", "infinity_vae_d32"))
    with pytest.raises(WeightsError, match="infinity_vae_d32reg"):
        convert_to_folder(transformer, tokenizer, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_bits_must_agree(tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path)
    write_official(official_tokenizer(bits=3, buffers=False), tmp_path / "three.pth")
    with pytest.raises(WeightsError, match="predicts 4 bits per token, but the tokenizer has 3"):
        convert_to_folder(transformer, tmp_path / "three.pth", tmp_path / "model")
    write_official(official_transformer(bits=56), tmp_path / "patched.pth")
    with pytest.raises(WeightsError, match="16 in a patch of 2x2"):
        convert_to_folder(tmp_path / "patched.pth", tokenizer, tmp_path / "model")


def test_swapped_paths_are_told_apart(tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path)
    with pytest.raises(WeightsError, match="is a tokenizer"):
        convert_to_folder(tokenizer, transformer, tmp_path / "model")
    with pytest.raises(WeightsError, match="is a transformer"):
        convert_to_folder(transformer, transformer, tmp_path / "model")


def test_an_occupied_destination_is_left_alone(tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    for convert in (
        lambda: convert_to_folder(transformer, tokenizer, tmp_path / "model"),
        lambda: convert_to_official(transformer, tmp_path / "model"),
    ):
        with pytest.raises(UsageError, match="nothing is overwritten"):
            convert()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "bits", "budget", "expected"),
    [
        ("infinity_8b_weights", 56, None, "1M"),
        ("infinity_8b_512x512_weights", 56, None, "0.25M"),
        ("small", 4, None, "0.06M"),
        ("small", 4, "0.60M", "0.60M"),
    ],
)
def test_budgets(name: str, bits: int, budget: str | None, expected: str, tmp_path: Path) -> None:
    write_official(official_transformer(bits=bits), tmp_path / f"{name}.pth")
    write_official(official_tokenizer(bits=14 if bits == 56 else 4), tmp_path / "vae.pth")
    folder = convert_to_folder(tmp_path / f"{name}.pth", tmp_path / "vae.pth", tmp_path / "model", budget=budget)
    config = TransformerConfig.load(folder / "transformer" / "config.json")
    assert config.budgets == (expected,)
    assert ModelIndex.load(folder / "model_index.json").name == name


def test_an_unknown_budget(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1M"):
        convert_to_folder(*write_pair(tmp_path), tmp_path / "model", budget="2M")
    assert not (tmp_path / "model").exists()


def test_a_text_encoder_comes_along(tmp_path: Path) -> None:
    tiny_text_encoder(tmp_path).save(tmp_path)
    folder = convert_to_folder(*write_pair(tmp_path), tmp_path / "model", text_encoder=tmp_path)
    loaded = load_folder(folder, dtype=torch.float32, device=CPU)
    assert loaded.text_encoder is not None
    transformer, tokenizer = write_pair(tmp_path / "wide", text_width=128)
    with pytest.raises(WeightsError, match="its features are 64 wide, the transformer reads 128"):
        convert_to_folder(transformer, tokenizer, tmp_path / "model2", text_encoder=tmp_path)
    with pytest.raises(UsageError, match="no text encoder"):
        convert_to_folder(transformer, tokenizer, tmp_path / "model2", text_encoder=tmp_path / "absent")


def test_a_makers_folder_is_read_as_t5(tmp_path: Path) -> None:
    tiny_text_encoder(tmp_path)  # for its vocabulary
    makers = tmp_path / "tiny-text-encoder"
    sizes = {"d_model": 64, "d_kv": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 32}
    T5EncoderModel(T5Config(**sizes)).save_pretrained(makers)
    folder = convert_to_folder(*write_pair(tmp_path), tmp_path / "model", text_encoder=makers)
    encoder = load_folder(folder, dtype=torch.float32, device=CPU).text_encoder
    assert encoder is not None
    assert encoder.kind == "t5"
    assert encoder.encode(["a red dog"]).features.shape == (1, 5, 64)


def test_a_dtype_is_applied_to_all(tmp_path: Path) -> None:
    folder = convert_to_folder(*write_pair(tmp_path), tmp_path / "model", dtype=torch.bfloat16)
    for part in ("transformer", "image_tokenizer"):
        assert {t.dtype for t in load_file(folder / part / "model.safetensors").values()} == {torch.bfloat16}
    identity = ModelIndex.load(folder / "model_index.json").tokenizer
    kept = convert_to_folder(*write_pair(tmp_path), tmp_path / "kept")
    assert (
        ModelIndex.load(kept / "model_index.json").tokenizer == identity
    )  # the same tokenizer, whatever it is kept in


def test_only_converted_models_go_back(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a model folder"):
        convert_to_official(tmp_path, tmp_path / "back")
    folder = convert_to_folder(*write_pair(tmp_path), tmp_path / "model")
    weights = folder / "transformer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"transformer/model\.safetensors: sha256"):
        convert_to_official(folder, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command(tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path, ("infinity_2b_reg", "infinity_vae_d32reg"))
    model, back = tmp_path / "model", tmp_path / "back"
    code, out, err = run(transformer, model, "--tokenizer", tokenizer, "--dtype", "fp32", "--budget", "1M")
    assert (code, out) == (0, f"{model}\n")
    assert err.count("\n") == 1
    assert "--text-encoder" in err
    assert run(model, back, "--to-official") == (0, f"{back / transformer.name}\n{back / tokenizer.name}\n", "")
    assert state(read_official(back / transformer.name)) == state(read_official(transformer))


def test_the_command_explains(tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path, ("infinity_2b_reg", "infinity_vae_d32"))
    model = convert_to_folder(*write_pair(tmp_path / "good"), tmp_path / "model")
    new = tmp_path / "new"
    for code, message, arguments in (
        (2, "--tokenizer", (transformer, new)),
        (2, "did you mean 'bf16'", (transformer, new, "--tokenizer", tokenizer, "--dtype", "bf6")),
        (2, "already a model folder", (model, new, "--tokenizer", tokenizer)),
        (2, "--name can't be used", (model, new, "--to-official", "--name", "x")),
        (2, "nothing is overwritten", (transformer, model, "--tokenizer", tokenizer)),
        (3, "infinity_vae_d32reg", (transformer, new, "--tokenizer", tokenizer)),
        (3, "There is no checkpoint", (tmp_path / "absent.pth", new, "--tokenizer", tokenizer)),
    ):
        result = run(*arguments)
        assert (result[0], result[1]) == (code, "")
        assert message in result[2]
    assert not new.exists()


def test_the_command_takes_the_name_of_a_text_encoder(tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path)
    for code, message, name in ((3, r"icons/text_encoder does not belong", "icons"), (2, "There is no", "absent")):
        result = run(transformer, tmp_path / "new", "--tokenizer", tokenizer, "--text-encoder", name)
        assert result[0] == code
        assert message in result[2]
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_alone_becomes_a_folder_to_train_from(tmp_path: Path) -> None:
    transformer, path = write_pair(tmp_path / "official", names=("model", "any_name"))
    assert is_official_tokenizer(path)
    assert not is_official_tokenizer(transformer)
    convert_tokenizer(path, tmp_path / "tokenizer")
    whole = convert_to_folder(transformer, path, tmp_path / "whole")
    alone = ImageCodec.from_pretrained(tmp_path / "tokenizer", device="cpu")
    assert alone.identity == ModelIndex.load(whole / "model_index.json").tokenizer
    patch = 16 // alone.tokenizer.config.stride
    side = 16 * patch * alone.tokenizer.config.stride
    assert alone.header_for(side, side).grids == official_schedule("1.0", "0.06M").latent_grids(patch)
    origin = TokenizerOrigin.read(tmp_path / "tokenizer")
    target = InfinityTokenizer(origin.config)
    origin.load_into(target)
    assert torch.equal(target.decoder.conv_in.weight, alone.tokenizer.decoder.conv_in.weight)
    with pytest.raises(UsageError, match="exists already"):
        convert_tokenizer(path, tmp_path / "tokenizer")
    with pytest.raises(WeightsError, match="is a transformer"):
        convert_tokenizer(transformer, tmp_path / "other")


def test_the_command_converts_a_tokenizer_alone(tmp_path: Path) -> None:
    transformer, path = write_pair(tmp_path / "official", names=("model", "infinity_vae_d32"))
    made = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "tokenizer")])
    assert made.exit_code == 0, made.output
    assert made.output.strip() == str(tmp_path / "tokenizer")
    refused = CliRunner().invoke(app, ["convert", str(transformer), str(tmp_path / "other")])
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("name", "flags", "budget"),
    [
        ("8B-512", (), "0.25M"),
        ("8B-1024", (), "1M"),
        ("mine", ("--instruction-editor",), "1M"),
        ("infinity_8b_weights", (), "1M"),
    ],
)
def test_published_editors_are_marked(name: str, flags: tuple[str, ...], budget: str, tmp_path: Path) -> None:
    """VAREdit's files have Infinity's tensors; only their names tell that the model reads a source image."""
    write_official(official_transformer(bits=56), tmp_path / f"{name}.pth")
    write_official(official_tokenizer(bits=14), tmp_path / "vae.pth")
    command = [
        "convert",
        str(tmp_path / f"{name}.pth"),
        str(tmp_path / "out"),
        "--tokenizer",
        str(tmp_path / "vae.pth"),
    ]
    result = CliRunner().invoke(app, [*command, *flags])
    assert result.exit_code == 0, result.output
    loaded = load_folder(tmp_path / "out", dtype=torch.float32, device=CPU)
    assert loaded.transformer.config.budgets == (budget,)
    if name == "infinity_8b_weights":
        assert loaded.instruction is None
        assert not (tmp_path / "out" / "instruction.json").exists()
        return
    assert loaded.instruction == EDITOR_SETTINGS
    save_folder(loaded, tmp_path / "again")
    assert load_folder(tmp_path / "again", dtype=torch.float32, device=CPU).instruction == EDITOR_SETTINGS
    written, _ = convert_to_official(tmp_path / "out", tmp_path / "back")
    assert state(read_official(written)) == state(read_official(tmp_path / f"{name}.pth"))


def test_an_editors_tokenizer_is_known_by_name() -> None:
    with pytest.raises(WeightsError, match="was trained with infinity_vae_d56_f8_14_patchify"):
        check_names(Path("8B-1024.pth"), Path("infinity_vae_d32.pth"))
