"""The hostile files of `test_hostile`: how each is made, where it is offered, and what must come of it."""

import contextlib
import copy
import functools
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from bitvar.data.index import RECORDS, SampleIndex
from bitvar.data.index_writing import build_index
from bitvar.data.layouts import RawSample, Rejected, read_records
from bitvar.errors import UsageError, WeightsError
from bitvar.imaging.open import RefusedError
from bitvar.lora.file import BASE_KEY, SETTINGS_KEY, WEIGHTS
from bitvar.lora.layers import LoraSettings, add_adapter, load_adapter, save_adapter
from bitvar.pipeline import InfinityPipeline
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training.engine.checkpoint import TrainState, clear_partial, latest, restore
from bitvar.training.engine.optim import Ema
from bitvar.training.engine.retention import step_reached
from bitvar.training.engine.shards import Rows, write_rows
from bitvar.weights.digests import MANIFEST, digest, write_manifest
from bitvar.weights.model_folder import load_component, save_folder
from bitvar.weights.official.convert import convert_to_folder
from bitvar.weights.tensors import load_tensors
from tests.support.captioned import encoded, make_image, row
from tests.support.tiny import tiny_components, tiny_transformer
from tests.unit.weights.test_convert import official_transformer, write_pair

ROOT = Path(__file__).parents[2]
MAX_GROWTH = 200 << 20
CPU_SECONDS = 2
LAYER = "transformer.blocks.0.fc1"

Make = Callable[[Path], Path]
"""Makes a file or folder in the folder given, and returns it."""


class Case(NamedTuple):
    """Something hostile.

    Attributes:
        make: makes it.
        offer: hands it to the package.
        error: what must come of it; None if it is to be read as plain data, without harm.
        pickle: the file, within the folder, that would run code if it were unpickled.
    """

    make: Make
    offer: Callable[[Path], object]
    error: type[Exception] | None
    pickle: str | None = None


# Where files are offered


def convert(path: Path) -> object:
    official = path.parents[2] / "sound" / "official"
    return convert_to_folder(path, official / "vae.pth", path.parent / "made")


def pipeline(path: Path) -> object:
    return InfinityPipeline.from_pretrained(path, device="cpu")


def tokenizer(path: Path) -> object:
    return load_component(InfinityTokenizer, path / "image_tokenizer")


def adapt(path: Path) -> object:
    return load_adapter(tiny_transformer(), path)


def resume(path: Path) -> None:
    model = torch.nn.Linear(3, 4)
    state = TrainState(model, Ema(model, 0.9), torch.optim.AdamW(model.parameters()))
    found = latest(path / "checkpoints")
    assert found is not None
    restore(state, found, config="{}")
    clear_partial(path / "checkpoints")
    assert state.step == 5


def supervise(path: Path) -> object:
    return step_reached(path)


def index(path: Path) -> object:
    return [sample.captions for sample in SampleIndex.open(path).raw_samples()]


def captioned(path: Path) -> None:
    for entry in read_records(path):
        if isinstance(entry, Rejected):
            raise RefusedError(entry.reason, entry.detail)
        assert isinstance(entry, RawSample)
        assert entry.image.read(max_bytes=1 << 20)


# Pickles that run code: each makes the canary when it is unpickled


class Call:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def touch(folder: Path) -> str:
    return f"touch {folder.parent / 'canary'}"


def system(protocol: int) -> Callable[[Path], bytes]:
    return lambda folder: pickle.dumps(Call(os.system, touch(folder)), protocol)


def evaluated(folder: Path) -> bytes:
    return pickle.dumps({"deep": [{"in": (1, Call(eval, f"__import__('os').system({touch(folder)!r})"))}]}, 2)


def executed(folder: Path) -> bytes:
    return pickle.dumps({"weight": 1, Call(exec, f"import os; os.system({touch(folder)!r})"): 2}, 4)


def in_state(folder: Path) -> bytes:
    return pickle.dumps(Call(OrderedDict, state={"_metadata": Call(os.system, touch(folder))}), 2)


def instance(folder: Path) -> bytes:
    return f"(S'{touch(folder)}'\nios\nsystem\n.".encode()


def attribute(folder: Path) -> bytes:
    name = "cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR"
    return f"{name}(S'{touch(folder)}'\ntR.".encode()


def dotted(folder: Path) -> bytes:
    """`os.system` by way of a module that may be named."""
    text = touch(folder).encode()
    return (
        b"\x80\x04\x8c\x13torch.serialization\x8c\x09os.system\x93X" + struct.pack("<I", len(text)) + text + b"\x85R."
    )


def archive(pickled: bytes, path: Path, *, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Path:
    """A zip as torch.save writes it, of this pickle."""
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as file:
        for name, content in ({"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"} | records).items():
            file.writestr(f"archive/{name}", content)
    return path


def zipped(payload: Callable[[Path], bytes], name: str = "model.pth") -> Make:
    return lambda folder: archive(payload(folder), folder / name)


def plain(payload: Callable[[Path], bytes], name: str = "model.pth") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(payload(folder))
        return folder / name

    return make


def saved(value: Callable[[Path], Any], **options: Any) -> Make:
    """What torch.save makes of a value."""

    def make(folder: Path) -> Path:
        torch.save(value(folder), folder / "model.pth", **options)
        return folder / "model.pth"

    return make


def hooked(folder: Path) -> Any:
    storage = torch.zeros(1)._typed_storage()
    hooks = Call(os.system, touch(folder))
    return {"cfg_uncond": Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, hooks)}


def legacy_tar(folder: Path) -> Path:
    with tarfile.open(folder / "model.pth", "w", format=tarfile.PAX_FORMAT) as file:
        for name in ("storages", "tensors", "pickle"):
            content = system(2)(folder)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return folder / "model.pth"


def polyglot(folder: Path) -> Path:
    """A pickle to one reader, a zip to another."""
    end = archive(pickle.dumps({}, 2), folder / "end.zip").read_bytes()
    (folder / "end.zip").unlink()
    (folder / "model.pth").write_bytes(system(2)(folder) + end)
    return folder / "model.pth"


def torchscript(folder: Path) -> Path:
    code = f"def forward(self): {touch(folder)!r}".encode()
    return archive(system(2)(folder), folder / "model.pth", **{"constants.pkl": system(2)(folder), "code/a.py": code})


def sharded(shard: str, *, index: str | None = None) -> Make:
    """A folder whose index names one shard."""

    def make(folder: Path) -> Path:
        made = folder / "shards"
        made.mkdir()
        text = index if index is not None else json.dumps({"weight_map": {"cfg_uncond": shard}})
        (made / "model.bin.index.json").write_text(text)
        archive(system(2)(folder), made / "model-00001.bin")
        return made

    return make


# Bombs, and archives that lie


def of_size(name: str, size: int = 256 << 20) -> Make:
    """A small archive of which one record unpacks to `size` bytes."""

    def make(folder: Path) -> Path:
        records = {"data.pkl": storage_pickle(size // 4), "data/0": bytes(64), name: bytes(size)}
        pickled = records.pop("data.pkl")
        return archive(pickled, folder / "model.pth", compression=zipfile.ZIP_DEFLATED, **records)

    return make


def storage_pickle(length: int, *, key: str = "0", offset: int = 0, shape: tuple[int, ...] = (1,)) -> bytes:
    """`{"cfg_uncond": tensor}` as torch.save pickles it, of a storage of `length` floats."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", length) if obj is marker else None

    marker, file = object(), io.BytesIO()
    tensor = Call(torch._utils._rebuild_tensor_v2, marker, offset, shape, (1,) * len(shape), False, OrderedDict())
    Pickler(file, 2).dump({"cfg_uncond": tensor})
    return file.getvalue()


def stored(pickled: bytes, **records: bytes) -> Make:
    return lambda folder: archive(pickled, folder / "model.pth", **({"data/0": bytes(64)} | records))


def overlapping_members(folder: Path) -> Path:
    """A thousand storages of a megabyte, all of them the same megabyte of the file."""
    made = io.BytesIO()
    torch.save({f"t{i}": torch.zeros(1) for i in range(1000)}, made)
    with zipfile.ZipFile(made) as file:
        pickled = file.read("archive/data.pkl").replace(b"K\x01t", b"J\x00\x00\x04\x00t")
    with zipfile.ZipFile(folder / "model.pth", "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", b"little")
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/data/0", bytes(1 << 20))
        for i in range(1, 1000):
            member = copy.copy(file.getinfo("archive/data/0"))
            member.filename = f"archive/data/{i}"
            file.filelist.append(member)
    return folder / "model.pth"


def view_bomb(folder: Path) -> dict[str, Any]:
    """A sound transformer but for one tensor, which is a single number seen four billion times."""
    return official_transformer() | {"cfg_uncond": torch.zeros(1).expand(1 << 26, 64)}


def unreal(folder: Path) -> dict[str, Any]:
    """A sound transformer, without its numbers."""
    return {name: t.to("meta") for name, t in official_transformer().items()}


def ragged(folder: Path) -> dict[str, Any]:
    with warnings.catch_warnings(action="ignore"):
        return {"cfg_uncond": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}


def laughs(folder: Path) -> Path:
    """A list of ten times the list before, thirty times over."""
    body = b"".join(b"](" + b"h%c" % (i - 1) * 10 + b"eq%c" % i for i in range(1, 30))
    return archive(b"\x80\x02]q\x00" + body + b"}X\x01\x00\x00\x00xh\x1ds.", folder / "model.pth")


# Safetensors


def raw(header: Any, data: bytes = b"", *, length: int | None = None) -> Make:
    """A file of this header, as text or as JSON, and of this length of it."""

    def make(folder: Path) -> Path:
        text = (header if isinstance(header, str) else json.dumps(header)).encode()
        size = len(text) if length is None else length
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + text + data)
        return folder / "model.safetensors"

    return make


def tensor(start: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def vast_header(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 200 << 20))
    os.truncate(path, (200 << 20) + 8)
    return path


# JSON


def nested(depth: int = 100_000) -> str:
    return '{"a":' * depth + "1" + "}" * depth


HUGE = '{"format": ' + "9" * 5000 + "}"


def put(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def update(name: str, **values: Any) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        held = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(held | values))

    return spoil


# Folders that are sound but for one thing


def spoiled(kind: str, spoil: Callable[[Path], object], *, at: str = "", manifest: Any = None) -> Make:
    """A copy of the sound one, with `spoil` done to it and its digests made anew, or with another manifest."""

    def make(folder: Path) -> Path:
        made = folder / kind
        shutil.copytree(folder.parents[1] / "sound" / kind, made)
        spoil(made / at)
        if manifest is KEPT:
            return made
        if isinstance(manifest, str):
            (made / at / MANIFEST).write_text(manifest)
        elif manifest is not None:
            (made / at / MANIFEST).write_text(json.dumps(manifest))
        elif (made / at / MANIFEST).is_file():
            write_manifest(made / at)
        return made

    return make


model = functools.partial(spoiled, "model")
run = functools.partial(spoiled, "run", at="checkpoints/step-00000005")


KEPT = object()


def nothing(folder: Path) -> None:
    pass


def pickled_encoder(folder: Path) -> None:
    (folder / "text_encoder" / "model.safetensors").unlink()
    (folder / "text_encoder" / "pytorch_model.bin").write_bytes(system(2)(folder.parent))


def encoder_with_code(folder: Path) -> None:
    """Code beside the weights, and configurations that name it as the class to use."""
    text = f"import os\nos.system({touch(folder.parent)!r})\nclass Evil: pass\n"
    (folder / "text_encoder" / "evil.py").write_text(text)
    update("text_encoder/config.json", auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"})(folder)
    update("text_encoder/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})(folder)


def encoder_with_adapter(folder: Path) -> None:
    """An adapter that transformers would find and load by itself."""
    text = folder / "text_encoder"
    settings = {"peft_type": "LORA", "r": 1, "target_modules": ["query"], "base_model_name_or_path": str(text)}
    (text / "adapter_config.json").write_text(json.dumps(settings))
    (text / "adapter_model.bin").write_bytes(system(2)(folder.parent))


def shards_outside(folder: Path) -> None:
    """An index that leads out of the folder."""
    elsewhere = "../../../../sound/model/image_tokenizer/model.safetensors"
    (folder / "image_tokenizer" / "model.safetensors").unlink()
    index = folder / "image_tokenizer" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"every one": elsewhere}}))


def distributed(folder: Path) -> None:
    """The pickled index that PyTorch's own distributed checkpoints have."""
    for path in folder.iterdir():
        path.unlink()
    (folder / ".metadata").write_bytes(system(2)(folder.parents[2]))
    (folder / "__0_0.distcp").write_bytes(system(2)(folder.parents[2]))


def manifest_outside(folder: Path) -> None:
    """The right digest of a file that is none of the folder's."""
    sums = json.loads((folder / MANIFEST).read_text())
    outside = "../../../outside/model.safetensors"
    (folder / MANIFEST).write_text(json.dumps(sums | {outside: digest(folder / outside)}))


def to_pickle_outside(folder: Path) -> None:
    outside = folder.parents[2] / "weights"
    outside.write_bytes(system(2)(folder.parents[2]))
    (folder / "ema.safetensors").unlink()
    (folder / "ema.safetensors").symlink_to(outside)


def partial_link(folder: Path) -> None:
    (folder.parent / ".step-00000006.partial").symlink_to(folder.parents[4] / "outside")


def unnumbered(folder: Path) -> None:
    """A step that is no number comes after all others by name."""
    (folder.parent / "step-zzz").mkdir()
    (folder.parent / "step-zzz" / ".metadata").write_bytes(system(2)(folder.parents[2]))


def rows(group: str, header: str, **tensors: torch.Tensor) -> Callable[[Path], object]:
    """A group of other tensors, or of another header."""

    def spoil(folder: Path) -> None:
        held = tensors or load_file(folder / f"{group}.safetensors")
        save_file(held, folder / f"{group}.safetensors", {"rows": header})

    return spoil


def adapter(header: dict[str, str], change: Callable[[torch.Tensor], torch.Tensor] = lambda t: t) -> Make:
    def make(folder: Path) -> Path:
        held = load_file(folder.parents[1] / "sound" / "adapter" / WEIGHTS)
        save_file({name: change(t) for name, t in held.items()}, folder / WEIGHTS, {"format": "pt"} | header)
        return folder / WEIGHTS

    return make


def adapter_folder(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text("{}")
    return plain(system(2), "adapter_model.bin")(folder).parent


def array(content: Callable[[Path], bytes] | bytes) -> Make:
    """An index with other records, of which its manifest knows the size."""

    def spoil(folder: Path) -> None:
        data = content if isinstance(content, bytes) else content(folder.parent)
        (folder / RECORDS).write_bytes(data)
        held = json.loads((folder / "index.json").read_text())
        held["files"][RECORDS]["bytes"] = len(data)
        (folder / "index.json").write_text(json.dumps(held))

    return spoiled("index", spoil)


def objects(folder: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Call(os.system, touch(folder))], dtype=object), allow_pickle=True)
    return file.getvalue()


def npy(header: str, length: int | None = None) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text) if length is None else length) + text + bytes(64)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, records=np.zeros(3))
    return file.getvalue()


def tarred(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", size: int | None = None, **more: bytes) -> Make:
    """A tar with one member and, if it is a plain file, its caption."""

    def make(folder: Path) -> Path:
        content = encoded(make_image()) if kind == tarfile.REGTYPE else b""
        parts = {name: content} | (more or {f"{name[:-4]}.txt": b"a cat"})
        with tarfile.open(folder / "set.tar", "w", format=tarfile.GNU_FORMAT) as file:
            for part, data in parts.items():
                info = tarfile.TarInfo(part)
                if part == name:
                    info.type, info.linkname = kind, link
                info.size = len(data) if size is None or part != name else size
                file.addfile(info, io.BytesIO(data) if info.size == len(data) else None)
                if info.size != len(data):
                    break
        return folder / "set.tar"

    return make


SHAPES = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
PAIR = {"a": tensor(0, 4, 1), "b": tensor(4, 8, 1)}

CASES: dict[str, Case] = {
    # Official checkpoints: pickles in every wrapping
    **{
        f"pth: {name}": Case(zipped(payload), convert, WeightsError, "model.pth")
        for name, payload in {
            "os.system, protocol 0": system(0),
            "os.system, protocol 2": system(2),
            "os.system, protocol 4": system(4),
            "eval deep in containers": evaluated,
            "exec as a key": executed,
            "a call in an object's state": in_state,
            "the INST opcode": instance,
            "getattr of __import__": attribute,
            "a dotted name in an allowed module": dotted,
        }.items()
    },
    "pth: a call in a tensor's hooks": Case(saved(hooked), convert, WeightsError, "model.pth"),
    "pth: a call among a trainer's leftovers": Case(
        saved(lambda folder: {"vae": {"a": torch.zeros(1)}, "optimizer": Call(os.system, touch(folder))}),
        *(convert, WeightsError, "model.pth"),
    ),
    "pth: a bare pickle": Case(plain(system(0)), convert, WeightsError, "model.pth"),
    "pt: a bare pickle": Case(plain(system(4), "model.pt"), convert, WeightsError, "model.pt"),
    "bin: a bare pickle": Case(plain(system(2), "model.bin"), convert, WeightsError, "model.bin"),
    "pth: the format before zips": Case(
        saved(lambda folder: {"a": Call(os.system, touch(folder))}, _use_new_zipfile_serialization=False),
        *(convert, WeightsError, "model.pth"),
    ),
    "pth: a tar, as first versions wrote": Case(legacy_tar, convert, WeightsError, "model.pth"),
    "pth: a pickle with a zip behind it": Case(polyglot, convert, WeightsError, "model.pth"),
    "pth: a TorchScript archive": Case(torchscript, convert, WeightsError),
    "safetensors: a pickle by that name": Case(
        plain(system(2), "model.safetensors"), convert, WeightsError, "model.safetensors"
    ),
    "shards: a pickle": Case(sharded("model-00001.bin"), convert, WeightsError, "shards/model-00001.bin"),
    "shards: a path out of the folder": Case(
        sharded("../../../outside/model.safetensors"), convert, WeightsError, "shards/model-00001.bin"
    ),
    "shards: an absolute path": Case(sharded("/etc/passwd"), convert, WeightsError, "shards/model-00001.bin"),
    "shards: a name too long for a file": Case(sharded("x" * 5000), convert, WeightsError),
    "shards: an index 100,000 deep": Case(sharded("", index=nested()), convert, WeightsError),
    "shards: an index with a number of 5,000 digits": Case(sharded("", index=HUGE), convert, WeightsError),
    # Official checkpoints: bombs and lies
    "pth: a pickle that unpacks to 256 MB": Case(of_size("data.pkl"), convert, WeightsError),
    "pth: a storage that unpacks to 256 MB": Case(of_size("data/0"), convert, WeightsError),
    "pth: a record of its form that unpacks to 256 MB": Case(of_size("byteorder"), convert, WeightsError),
    "pth: a thousand members that overlap": Case(overlapping_members, convert, WeightsError),
    "pth: one number seen four billion times": Case(saved(view_bomb), convert, WeightsError),
    "pth: tensors without numbers": Case(saved(unreal), convert, WeightsError),
    "pth: a tensor of ragged rows": Case(saved(ragged), convert, WeightsError),
    "pth: a tensor that begins beyond its storage": Case(
        stored(storage_pickle(16, offset=1 << 40)), convert, WeightsError
    ),
    "pth: a tensor longer than its storage": Case(stored(storage_pickle(16, shape=(1 << 40,))), convert, WeightsError),
    "pth: a storage longer than the file": Case(stored(storage_pickle(1 << 40)), convert, WeightsError),
    "pth: a member whose name leads out": Case(
        stored(storage_pickle(16, key="../../../canary"), **{"data/../../../canary": bytes(64)}), convert, WeightsError
    ),
    "pth: a terabyte of bytearray": Case(
        stored(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R."),
        *(convert, WeightsError),
    ),
    "pth: lists of lists, ten to the thirtieth": Case(laughs, convert, WeightsError),
    "pth: a key that is a million tuples deep": Case(
        stored(b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."), convert, WeightsError
    ),
    # Safetensors
    **{
        f"safetensors: {name}": Case(make, load_tensors, WeightsError)
        for name, make in {
            "a header of 2^63 bytes": raw("{}", length=1 << 63),
            "a header of 200 MB declared": raw("{}", length=200 << 20),
            "a header of 200 MB of zeros": vast_header,
            "offsets that overlap": raw({"a": tensor(0, 8, 2), "b": tensor(4, 12, 2)}, bytes(12)),
            "offsets beyond the end": raw({"a": tensor(0, 1 << 40, 1 << 38)}, bytes(8)),
            "a negative offset": raw({"a": tensor(-4, 0, 1)}, bytes(4)),
            "a gap between tensors": raw({"a": tensor(0, 4, 1), "b": tensor(8, 12, 1)}, bytes(12)),
            "the wrong size for its type": raw({"a": tensor(0, 8, 1)}, bytes(8)),
            "a shape whose product overflows": raw({"a": tensor(0, 0, 1 << 32, 1 << 32)}),
            "a type nobody knows": raw({"a": tensor(0, 4, 1, dtype="OBJECT")}, bytes(4)),
            "a tensor twice": raw(json.dumps(PAIR).replace('"b"', '"a"'), bytes(8)),
            "a header that is no JSON": raw("__import__('os').system('true')"),
            "a header 100,000 deep": raw(nested()),
        }.items()
    },
    # Model folders
    "model: a manifest that lists a file outside": Case(model(manifest_outside, manifest=KEPT), pipeline, WeightsError),
    "model: a manifest 100,000 deep": Case(model(nothing, manifest=nested()), pipeline, WeightsError),
    "model: a manifest with a name too long": Case(model(nothing, manifest={"x" * 5000: ""}), pipeline, WeightsError),
    "model: an index 100,000 deep": Case(model(put("model_index.json", nested())), pipeline, WeightsError),
    "model: a number of 5,000 digits": Case(model(put("model_index.json", HUGE)), pipeline, WeightsError),
    "model: sizes that are no numbers": Case(
        model(update("transformer/config.json", width=float("nan"))), pipeline, WeightsError
    ),
    "model: a guidance that is no number": Case(
        model(update("model_index.json", defaults={"guidance_scale": float("nan")})), pipeline, WeightsError
    ),
    "model: ten million blocks": Case(
        model(update("transformer/config.json", depth=10_000_000)), pipeline, WeightsError
    ),
    "model: a width of 2^62": Case(
        model(update("transformer/config.json", width=1 << 62, num_heads=1 << 58)), pipeline, WeightsError
    ),
    "model: a tokenizer of ten million blocks": Case(
        model(update("image_tokenizer/config.json", res_blocks=10_000_000)), pipeline, WeightsError
    ),
    "model: weights from outside": Case(model(shards_outside), pipeline, WeightsError),
    "model: an index of weights without any": Case(
        model(put("transformer/model.safetensors.index.json", '{"weight_map": [{}]}')), pipeline, WeightsError
    ),
    "model: an index of weights 100,000 deep": Case(
        model(put("image_tokenizer/model.safetensors.index.json", nested())), tokenizer, WeightsError
    ),
    "model: a card of other bytes": Case(model(put("README.md", b"\xff\xfe\x80")), pipeline, None),
    "model: a pickled text encoder": Case(
        model(pickled_encoder), pipeline, WeightsError, "model/text_encoder/pytorch_model.bin"
    ),
    "model: a text encoder with code": Case(model(encoder_with_code), pipeline, WeightsError),
    "model: a text encoder with a pickled adapter": Case(
        model(encoder_with_adapter), pipeline, WeightsError, "model/text_encoder/adapter_model.bin"
    ),
    # Adapters
    "adapter: a pickle": Case(plain(system(2), "a.bin"), adapt, WeightsError, "a.bin"),
    "adapter: a pickle called safetensors": Case(
        plain(system(4), "a.safetensors"), adapt, WeightsError, "a.safetensors"
    ),
    "adapter: a folder of a pickle": Case(adapter_folder, adapt, WeightsError, "adapter_model.bin"),
    "adapter: settings 100,000 deep": Case(adapter({SETTINGS_KEY: nested()}), adapt, WeightsError),
    "adapter: settings that are no numbers": Case(
        adapter({SETTINGS_KEY: '{"r": NaN, "lora_alpha": 1e999}'}), adapt, WeightsError
    ),
    "adapter: a base that is a list": Case(adapter({BASE_KEY: "[[]]"}), adapt, WeightsError),
    "adapter: numbers of eight bits": Case(adapter({}, lambda t: t.to(torch.float8_e4m3fn)), adapt, WeightsError),
    # Checkpoints of runs
    "run: PyTorch's pickled index": Case(
        run(distributed), resume, WeightsError, "run/checkpoints/step-00000005/.metadata"
    ),
    "run: a pickled index that the manifest passes over": Case(
        run(distributed, manifest={}), resume, WeightsError, "run/checkpoints/step-00000005/.metadata"
    ),
    "run: a step that is no number": Case(run(unnumbered), resume, None, "run/checkpoints/step-zzz/.metadata"),
    "run: a step that is no number, to the supervisor": Case(run(unnumbered), supervise, None),
    "run: a link to a pickle outside": Case(run(to_pickle_outside), resume, WeightsError, "weights"),
    "run: a partial one that is a link": Case(run(partial_link), resume, None),
    "run: a configuration that is a list": Case(run(put("config.json", "[]")), resume, WeightsError),
    "run: a configuration 100,000 deep": Case(run(put("config.json", nested())), resume, WeightsError),
    "run: a state that is a list": Case(run(put("state.json", "[5]")), resume, WeightsError),
    "run: a step of words": Case(run(put("state.json", '{"step": "five", "base_sha256": null}')), resume, WeightsError),
    "run: rows that are a list": Case(run(rows("ema", "[[0, 4]]")), resume, WeightsError),
    "run: rows that are text": Case(run(rows("ema", '{"weight": ["0", 4]}')), resume, WeightsError),
    "run: rows 100,000 deep": Case(run(rows("ema", nested())), resume, WeightsError),
    "run: rows of another width": Case(
        run(rows("ema", "{}", weight=torch.zeros(4, 5), bias=torch.zeros(4))), resume, WeightsError
    ),
    "run: a moment of no parameter": Case(
        run(rows("optimizer", "{}", **{"evil:exp_avg": torch.zeros(4)})), resume, WeightsError
    ),
    # Indexes
    "index: an array of pickled objects": Case(array(objects), index, UsageError, "index/records.npy"),
    "index: an array of 2^63 records": Case(array(npy(SHAPES % f"({1 << 63},)")), index, UsageError),
    "index: an array of a negative length": Case(array(npy(SHAPES % "(-8,)")), index, UsageError),
    "index: a header of four gigabytes": Case(array(npy("{", length=0xFFFFFFFF)), index, UsageError),
    "index: a header of open brackets": Case(array(npy("(((")), index, UsageError),
    "index: a header of 9,000 signs": Case(array(npy("-" * 9000 + "1")), index, UsageError),
    "index: an archive for an array": Case(array(npz()), index, UsageError),
    "index: a manifest 100,000 deep": Case(spoiled("index", put("index.json", nested())), index, UsageError),
    # Tars
    "tar: a member whose name leads out": Case(tarred("../../../outside/cat.png"), captioned, None),
    "tar: a symbolic link": Case(tarred("cat.png", tarfile.SYMTYPE, link="/etc/passwd"), captioned, RefusedError),
    "tar: a hard link": Case(tarred("cat.png", tarfile.LNKTYPE, link="../canary"), captioned, RefusedError),
    "tar: a device": Case(tarred("cat.png", tarfile.CHRTYPE), captioned, RefusedError),
    "tar: a pipe": Case(tarred("cat.png", tarfile.FIFOTYPE), captioned, RefusedError),
    "tar: a member of eight terabytes": Case(tarred("cat.png", size=1 << 43), captioned, RefusedError),
    "tar: a caption 100,000 deep": Case(tarred("cat.png", **{"cat.json": nested().encode()}), captioned, RefusedError),
}

SOUND: dict[str, tuple[str, Callable[[Path], object]]] = {
    "official/model.pth": ("model.pth", convert),
    "model": ("model", pipeline),
    "model/image_tokenizer/model.safetensors": ("model.safetensors", load_tensors),
    "adapter": ("adapter", adapt),
    "run": ("run", resume),
    "index": ("index", index),
    "set.tar": ("set.tar", captioned),
}


def believe(path: Path) -> object:
    return pickle.loads(path.read_bytes())


def sprawl(path: Path) -> object:
    (path.parents[2] / "outside" / "written").touch()
    with contextlib.suppress(OSError):
        (ROOT / "no-such-folder" / "file").write_text("")
    return b"x" * (MAX_GROWTH * 5 // 4)


CONTROLS: dict[str, Callable[[Path], object]] = {"control: believe": believe, "control: sprawl": sprawl}
"""What does harm, so that it is seen that harm would be seen."""


def make_sound(folder: Path) -> None:
    """The files that nothing is wrong with."""
    folder.mkdir()
    write_pair(folder / "official")
    save_folder(tiny_components(folder / "parts"), folder / "model")
    transformer, settings = tiny_transformer(), LoraSettings(rank=2, targets=("fc1",))
    add_adapter(transformer, settings, generator=torch.Generator().manual_seed(0))
    save_adapter(transformer, folder / "adapter", settings=settings, base=None)
    step = folder / "run" / "checkpoints" / "step-00000005"
    step.mkdir(parents=True)
    tensors = {"weight": Rows(torch.zeros(4, 3), 0, 4), "bias": Rows(torch.zeros(4), 0, 4)}
    for group in ("model", "ema"):
        write_rows(step / f"{group}.safetensors", tensors)
    write_rows(step / "optimizer.safetensors", {f"{name}:exp_avg": value for name, value in tensors.items()})
    (step / "config.json").write_text("{}")
    (step / "state.json").write_text('{"step": 5, "base_sha256": null}')
    write_manifest(step)
    (folder / "set").mkdir()
    for i in range(3):
        (folder / "set" / f"{i}.png").write_bytes(encoded(make_image(seed=i)))
    table = folder / "set" / "s.jsonl"
    table.write_bytes(b"\n".join(row(image_path=f"{i}.png", caption=f"image {i}", split="train") for i in range(3)))
    build_index(table, folder / "index")
    tarred("cat.png")(folder)
