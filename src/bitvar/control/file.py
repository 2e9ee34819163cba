"""The file of a control adapter: weights in fp16, with its configuration and its base model in the header.

It is read strictly: one format, exactly the tensors of its configuration, and only for the model that it was trained
with, since the adapter writes into that model's own tokens.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open

from bitvar.config import Config
from bitvar.control.adapter import ControlAdapter
from bitvar.control.config import ControlConfig
from bitvar.errors import UsageError, WeightsError
from bitvar.finite import require_sound_weights
from bitvar.lora.file import LoraBase
from bitvar.transformer.config import TransformerConfig
from bitvar.weights.digests import MANIFEST, atomic_folder, digest, verify_folder
from bitvar.weights.hub import refuse_revision, resolve_model
from bitvar.weights.tensors import assign_tensors, load_tensors, write_tensors

WEIGHTS: Final = "control.safetensors"
HEADER_KEY: Final = "bitvar_control"
FORMAT: Final = 1


class ControlHeader(Config):
    """What the header of a file says about its adapter.

    Attributes:
        format: Format number of the file.
        config: Architecture of the adapter.
        base: Model that the adapter was trained with.
    """

    format: Annotated[int, Field(strict=True, ge=1)]
    config: ControlConfig
    base: LoraBase


@dataclass(frozen=True)
class LoadedControl:
    """An adapter from a file.

    Attributes:
        adapter: Adapter in fp32 on the CPU, frozen.
        base: Model that it was trained with.
        sha256: Digest of the file.
    """

    adapter: ControlAdapter
    base: LoraBase
    sha256: str


def save_control(adapter: ControlAdapter, folder: Path, *, base: LoraBase) -> None:
    """Write an adapter atomically, as a folder of one safetensors file in fp16 and its digest.

    Args:
        adapter: Adapter to write.
        folder: Folder to write.
        base: Model that the adapter was trained with.

    Raises:
        WeightsError: For weights that are not finite in fp16.
    """
    tensors = {name: tensor.detach().half().cpu().contiguous() for name, tensor in adapter.state_dict().items()}
    require_sound_weights(tensors, "the control adapter")
    header = ControlHeader(format=FORMAT, config=adapter.config, base=base)
    with atomic_folder(folder) as temporary:  # one entry of metadata, since the order of several is random
        write_tensors(tensors, temporary / WEIGHTS, metadata={HEADER_KEY: header.model_dump_json()})


def find_control(source: str | Path, revision: str | None = None) -> Path:
    """Locate the file of a control adapter.

    Args:
        source: Safetensors file, folder with one (verified if it has a manifest), name in the package, or hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        UsageError: For a missing source.
        WeightsError: For a folder without such a file, or with altered ones.
    """
    path = Path(source)
    if path.suffix == ".safetensors" and not path.is_dir():
        if not path.is_file():
            raise UsageError(f"There is no control adapter {str(path)!r}.", fix="check the path")
        refuse_revision(revision, path, "control adapter")
        return path
    folder = resolve_model(source, revision, what="control adapter")
    if (folder / MANIFEST).is_file():
        verify_folder(folder)
    if not (folder / WEIGHTS).is_file():
        inside = folder / "control" / WEIGHTS
        fix = f"give {inside.parent}" if inside.is_file() else "give the folder that a control run wrote"
        raise WeightsError(f"{folder} is no control adapter.", f"it has no {WEIGHTS}", fix)
    return folder / WEIGHTS


def read_control(path: Path, *, base: LoraBase, model: TransformerConfig) -> LoadedControl:
    """Read a file for a model, and refuse it for another.

    Args:
        path: File of the adapter.
        base: The model that it is to control. Without a digest, only the sizes are compared.
        model: Configuration of that model's transformer.

    Raises:
        WeightsError: For a damaged file, another format, or another base model.
    """
    header = _read_header(path)
    config = header.config
    made_for = f"it was trained with {header.base}, and this is {base}"
    fix = "use it with its own model, or train one for this: recipes/icons/control.py"
    scales = max(len(schedule) for schedule in model.all_schedules())
    other_sizes = (config.width, config.patch_size) != (model.width, model.patch_size) or config.scales < scales
    if other_sizes or (base.transformer and base.transformer != header.base.transformer):
        raise WeightsError(f"The control adapter {path} belongs to another model.", made_for, fix)
    tensors = load_tensors(path)
    require_sound_weights(tensors, str(path))
    with torch.device("meta"):
        adapter = ControlAdapter(config)
    assign_tensors(adapter, tensors, str(path), dtype=torch.float32, device=torch.device("cpu"))
    return LoadedControl(adapter.eval().requires_grad_(False), header.base, digest(path))


def _read_header(path: Path) -> ControlHeader:
    what, fix = f"{path} is no control adapter.", "get it again, or give the file that a control run wrote"
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER_KEY)
        values = None if text is None else json.loads(text)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise WeightsError(what, f"its header can't be read: {error}", fix) from None
    if not isinstance(values, dict):
        raise WeightsError(what, f"its header has no {HEADER_KEY}", fix)
    if values.get("format") != FORMAT:
        why = f"its format is {values.get('format')!r}, and this version reads {FORMAT}"
        raise WeightsError(f"Can't read the control adapter {path}.", why, "use another version of bitvar")
    try:
        return ControlHeader.parse(values, source=f"the header of {path}")
    except UsageError as error:
        raise WeightsError(str(error)) from None
