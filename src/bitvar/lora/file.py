"""The file of a low-rank adapter in the format of diffusers: finding it, reading it, checking it against a model.

A file has two tensors per layer, `transformer.LAYER.lora_A.weight` of shape (rank, inputs) and
`transformer.LAYER.lora_B.weight` of shape (outputs, rank), and PEFT's settings as JSON in its header. Files written by
PEFT and kohya are read too. This module does not import PEFT.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bitvar.config import Config, read_json
from bitvar.errors import UsageError, WeightsError
from bitvar.lora.names import PEFT_PREFIX, PREFIX, parse_name
from bitvar.nn.linear import Linear
from bitvar.weights.digests import MANIFEST, atomic_folder, digest, merged_digest, verify_folder
from bitvar.weights.hub import refuse_revision, resolve_model
from bitvar.weights.tensors import load_tensors, write_tensors

WEIGHTS: Final = "pytorch_lora_weights.safetensors"
PEFT_WEIGHTS: Final = "adapter_model.safetensors"
PEFT_SETTINGS: Final = "adapter_config.json"
SETTINGS_KEY: Final = "lora_adapter_metadata"
BASE_KEY: Final = "bitvar_base"
TENSOR: Final = re.compile(rf"{PREFIX}\.(.+)\.lora_([AB])\.weight")
FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MAX_CHANGE: Final = 1e6
"""Upper bound on what an adapter may add to a weight. Most weights of a model are below 1."""
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

WITHOUT_EFFECT: Final = (
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern"),
    *("layers_to_transform", "lora_dropout", "megatron_core", "peft_type", "peft_version", "qalora_group_size"),
    *("revision", "target_modules", "task_type"),
)
"""Settings of PEFT that do not affect the meaning of the tensors."""


class LoraBase(Config):
    """The model that an adapter was trained for.

    Attributes:
        name: Name of the model, as in its index.
        transformer: Merged digest of all files in `transformer/`; empty if the model was never in a folder.
    """

    name: Annotated[str, Field(max_length=255)]
    transformer: Annotated[str, Field(max_length=64)] = ""

    @classmethod
    def of_folder(cls, folder: Path, sums: Mapping[str, str] | None = None) -> "LoraBase":
        """Identify the model in a folder.

        Args:
            folder: Model folder.
            sums: Manifest of the folder, if it has been verified already.

        Raises:
            UsageError: if the folder has no index.
            WeightsError: for missing or altered files.
        """
        name = read_json(folder / "model_index.json")["name"]
        return cls(name=name, transformer=merged_digest(sums or verify_folder(folder), "transformer/"))

    def __str__(self) -> str:
        return f"{self.name} (transformer {self.transformer[:12] or 'not from a folder'})"


@dataclass(frozen=True)
class AdapterFile:
    """The content of an adapter's file, checked against a model.

    Attributes:
        pairs: Matrices `A` and `B` of each layer.
        alphas: Alpha of each layer.
        base: Model that the adapter was trained for, if the file names it.
        sha256: Digest of the adapter (`adapter_digest`).
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    alphas: dict[str, float]
    base: LoraBase | None
    sha256: str


Rank = Annotated[int, Field(ge=1, le=1 << 14)]
Alpha = Annotated[float, Field(ge=-1e6, le=1e6)]
Layer = Annotated[str, Field(max_length=1024)]


class _Settings(Config):
    """PEFT's settings in a file. Patterns give some layers a value of their own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    r: Rank
    lora_alpha: Alpha
    rank_pattern: dict[Layer, Rank] = Field(default_factory=dict, max_length=1 << 14)
    alpha_pattern: dict[Layer, Alpha] = Field(default_factory=dict, max_length=1 << 14)


def write_adapter(
    tensors: Mapping[str, Tensor],
    folder: Path,
    *,
    rank: int,
    alpha: float,
    base: LoraBase | None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter atomically, as a folder with its file and a manifest.

    Args:
        tensors: Tensors by their names in the file.
        folder: Folder to write.
        rank: Rank of every pair.
        alpha: Alpha of every pair.
        base: Model that the adapter was trained for; None if it has no name.
        texts: Further text files of the folder, by name.
    """
    layers = sorted({match[1] for key in tensors if (match := TENSOR.fullmatch(key))})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": layers}
    header = {"format": "pt", SETTINGS_KEY: json.dumps({f"{PREFIX}.{key}": settings[key] for key in settings})}
    if base is not None:
        header[BASE_KEY] = base.model_dump_json()
    with atomic_folder(folder) as temporary:
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        write_tensors(plain, temporary / WEIGHTS, metadata=header)
        for name, text in (texts or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")


def find_adapter(source: str | Path, revision: str | None = None) -> Path:
    """Locate the safetensors file of an adapter.

    Args:
        source: Safetensors file, folder that contains one (verified if it has a manifest), or hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        UsageError: for a missing source.
        WeightsError: for another format, or a folder without such a file or with altered files.
    """
    path = Path(source)
    if path.suffix in PICKLES:
        why = "only .safetensors is read; pickles could run code"
        raise WeightsError(f"Can't load the adapter {path}.", why, "get the adapter as safetensors")
    if path.suffix == ".safetensors" and not path.is_dir():
        if not path.is_file():
            raise UsageError(f"There is no adapter {str(path)!r}.", fix="check the path")
        refuse_revision(revision, path, "adapter")
        return path
    folder = resolve_model(source, revision, what="adapter")
    if (folder / MANIFEST).is_file():
        verify_folder(folder)
    files = sorted(folder.glob("*.safetensors"))
    named = [path for path in (folder / WEIGHTS, folder / PEFT_WEIGHTS) if path.is_file()]
    path = files[0] if len(files) == 1 else named[0] if named else folder / WEIGHTS
    if not path.is_file():
        found = ", ".join(file.name for file in files) or "no .safetensors file; other formats are not read"
        raise WeightsError(f"{folder} holds no {WEIGHTS}.", f"it has: {found}", "name the file itself")
    return path


def adapter_digest(path: Path) -> str:
    """Compute the digest of an adapter: the sha256 of its file, combined with that of PEFT's settings if any.

    Raises:
        WeightsError: for an unreadable file.
    """
    settings = path.with_name(PEFT_SETTINGS)
    try:
        if not (settings.is_file() and _is_peft(path)):
            return digest(path)
        return hashlib.sha256(f"{digest(path)} {digest(settings)}".encode()).hexdigest()
    except OSError as error:
        why = error.strerror or str(error)
        raise WeightsError(f"Can't read the adapter {path}.", why, "get the adapter again") from None


def read_adapter(path: Path, layers: Mapping[str, Linear]) -> AdapterFile:
    """Read an adapter's file for a model with these linear layers.

    Raises:
        WeightsError: for a damaged file, tensors that don't fit (all are named), or settings beyond plain LoRA.
    """
    tensors = load_tensors(path)
    settings, base = _read_header(path)
    if any(key.startswith(PEFT_PREFIX) for key in tensors):
        settings = _read_peft_settings(path)
    pairs, own_alphas, problems = _match(tensors, layers)
    if problems or not pairs:
        listed = "\n    ".join(problems[:40] or ["it holds no tensors"])
        why = f"{len(problems)} entries are wrong; it was made for {base or 'a model it does not name'}"
        raise WeightsError(
            f"The adapter {path} doesn't fit this model:\n    {listed}", why, "use it with the model it was made for"
        )
    alphas = _alphas({layer: len(a) for layer, (a, _) in pairs.items()}, settings, path)
    if settings is not None and own_alphas:
        why = "both its settings and its tensors give alpha"
        raise WeightsError(f"The adapter {path} contradicts itself.", why, "get the adapter again")
    alphas |= own_alphas
    _require_bounded(pairs, alphas, path)
    return AdapterFile(pairs, alphas, base, adapter_digest(path))


def _is_peft(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return any(key.startswith(PEFT_PREFIX) for key in file.keys())  # noqa: SIM118  (no mapping)
    except SafetensorError:
        return False


def _read_peft_settings(path: Path) -> _Settings:
    """Read the settings that PEFT wrote beside an adapter. Without them the adapter's scale is unknown."""
    settings = path.with_name(PEFT_SETTINGS)
    try:
        return _Settings.load(settings)
    except UsageError as error:
        why = str(error).replace("\n", " ")
        fix = f"keep {PEFT_SETTINGS} beside the file, as PEFT writes it"
        raise WeightsError(f"Can't read the settings of {path}.", why, fix) from None


def _require_bounded(pairs: Mapping[str, tuple[Tensor, Tensor]], alphas: Mapping[str, float], path: Path) -> None:
    """Refuse an adapter that would dominate the model's own weights, or overflow."""
    for layer, (a, b) in pairs.items():
        change = float(a.abs().max()) * float(b.abs().max()) * abs(alphas[layer])
        if not math.isfinite(alphas[layer]) or change > MAX_CHANGE:
            why = f"it could add up to {change:.3g} to a weight of {layer}; a model's own weights are mostly below 1"
            raise WeightsError(f"The adapter {path} is out of bounds.", why, "get it again, or retrain it")


def _read_header(path: Path) -> tuple[_Settings | None, LoraBase | None]:
    """Read the settings and the base model from a file's header; None for either that it does not contain."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        settings, base = (json.loads(header.get(key, "null")) for key in (SETTINGS_KEY, BASE_KEY))
        if settings is not None:
            own = {key.removeprefix(f"{PREFIX}."): value for key, value in settings.items()}
            settings = _Settings.parse(own, source=f"{SETTINGS_KEY} of {path}")
        return settings, None if base is None else LoraBase.parse(base, source=f"{BASE_KEY} of {path}")
    except UsageError as error:
        raise WeightsError(str(error)) from None
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        why = f"its header doesn't hold a JSON object: {error}"
        raise WeightsError(f"Can't read the settings of {path}.", why, "get the adapter again") from None


def _match(
    tensors: Mapping[str, Tensor], layers: Mapping[str, Linear]
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float], list[str]]:
    """Match tensors to layers. Returns each layer's `A` and `B`, the alphas stored as tensors, and all problems."""
    parts: dict[str, dict[str, Tensor]] = {}
    problems = []
    for key, tensor in sorted(tensors.items()):
        role = parse_name(key, layers)
        if role is None:
            problems.append(f"{key}: not a name like {PREFIX}.LAYER.lora_A.weight")
        elif role.layer not in layers:
            problems.append(f"{key}: the model has no such layer")
        elif problem := _value_problem(tensor, role.part):
            problems.append(f"{key}: {problem}")
        elif role.part in parts.setdefault(role.layer, {}):
            problems.append(f"{key}: the file holds that tensor twice, under two names")
        else:
            parts[role.layer][role.part] = tensor
    alphas = {layer: float(part["alpha"]) for layer, part in parts.items() if "alpha" in part}
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, part in parts.items():
        inputs, outputs = layers[layer].in_features, layers[layer].out_features
        missing = [name for name in "AB" if name not in part]
        problems += [f"{PREFIX}.{layer}.lora_{name}.weight: missing" for name in missing]
        if missing:
            continue
        a, b = tuple(part["A"].shape), tuple(part["B"].shape)
        if len(a) != 2 or a[0] == 0 or a[1] != inputs or b != (outputs, a[0]):
            wanted = f"(rank, {inputs}) and ({outputs}, rank)"
            problems.append(f"{PREFIX}.{layer}: lora_A is of shape {a} and lora_B of {b}, expected {wanted}")
        pairs[layer] = part["A"], part["B"]
    return pairs, alphas, problems


def _value_problem(tensor: Tensor, part: str) -> str | None:
    if part == "alpha" and tensor.numel() != 1:
        return f"alpha is one number, not {tensor.numel()}"
    if tensor.dtype not in FLOATS and not (part == "alpha" and tensor.dtype in (torch.int64, torch.int32)):
        return f"its dtype is {tensor.dtype}; adapters must be floating-point"
    if not bool(tensor.isfinite().all()):
        return "it contains NaN or infinity"
    return None


def _alphas(ranks: Mapping[str, int], settings: _Settings | None, path: Path) -> dict[str, float]:
    """Determine each layer's alpha: from the settings, or else its rank."""
    if settings is None:
        return {layer: float(rank) for layer, rank in ranks.items()}
    patterns = [*settings.rank_pattern, *settings.alpha_pattern]
    extra = (settings.model_extra or {}).items()
    unsupported = [f"{key}={value!r}" for key, value in extra if _is_unsupported(key, value)]
    unmatched = [pattern for pattern in patterns if not any(_names(pattern, layer) for layer in ranks)]
    unsupported += [f"the pattern {pattern!r}" for pattern in unmatched]
    if unsupported:
        why = f"its settings are not supported: {', '.join(sorted(unsupported))}"
        raise WeightsError(
            f"The adapter {path} is not a plain LoRA.", why, "get it without these settings, or retrain it"
        )
    for layer, rank in ranks.items():
        stated = _layer_value(layer, settings.rank_pattern, settings.r)
        if stated != rank:
            why = f"{layer} has rank {rank}, but its settings say {stated}"
            raise WeightsError(f"The adapter {path} contradicts itself.", why, "get the adapter again")
    return {layer: _layer_value(layer, settings.alpha_pattern, settings.lora_alpha) for layer in ranks}


def _is_unsupported(key: str, value: Any) -> bool:
    if key == "init_lora_weights":  # other initialisations also changed the model's own weights
        return value not in (True, False, "gaussian")
    return key not in WITHOUT_EFFECT and value not in (None, False, "none", [], {})


def _layer_value(layer: str, patterns: Mapping[str, float], default: float) -> float:
    return next((value for key, value in patterns.items() if _names(key, layer)), default)


def _names(pattern: str, layer: str) -> bool:
    """Whether a pattern is the layer's name or a suffix of it. PEFT's regular expressions are not evaluated."""
    literal = pattern.replace("\\.", ".")
    return layer == literal.removeprefix("^") or layer.endswith(f".{literal}")
