"""Adapters loaded into a model: which are active, at which weights, and whether they are fused into the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from bitvar.config import unknown
from bitvar.errors import UsageError, WeightsError
from bitvar.lora.file import AdapterFile
from bitvar.lora.layers import load_adapter, lora_layers
from bitvar.lora.used import UsedAdapter

STRONGEST: Final = 100.0
"""Largest absolute weight of an adapter. Useful weights lie between -2 and 2."""


def require_weight(weight: float, what: str) -> float:
    """Check the weight of an adapter and return it as a float.

    Args:
        weight: Factor that multiplies the adapter's output.
        what: Name of the weight in the error.

    Raises:
        UsageError: If the weight is not a finite number from -`STRONGEST` to `STRONGEST`.
    """
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not -STRONGEST <= weight <= STRONGEST:
        why = f"it must be a number from {-STRONGEST:g} to {STRONGEST:g}; most adapters are trained for 0 to 1"
        raise UsageError(f"{what} is {str(weight)[:40]}.", why, "give a smaller number, such as 0.8")
    return float(weight)


class Adapters:
    """Load, weight, fuse and remove the adapters of one model, in place.

    The caller makes sure that no images are being generated meanwhile.

    Args:
        model: Model whose layers are wrapped and unwrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._sources: dict[str, tuple[str | None, str]] = {}  # hub id and sha256 by name
        self._weights: dict[str, float] = {}  # weights of the active adapters, in order
        self._enabled = True
        self._unfused: dict[str, Tensor] = {}  # each layer's weights before fusing; empty unless fused
        self._fused_scale = 1.0

    @property
    def names(self) -> list[str]:
        """Names of all loaded adapters, in order."""
        return list(self._sources)

    @property
    def active(self) -> list[str]:
        """Names of the active adapters, in order, even while adapters are disabled."""
        return list(self._weights)

    def load(self, source: str | Path, *, name: str, revision: str | None = None) -> AdapterFile:
        """Load an adapter and make it the only active one, at weight 1.

        Raises:
            UsageError: If adapters are fused, or as `load_adapter` raises it.
            WeightsError: As `load_adapter` raises it.
        """
        self._refuse_if_fused("load another adapter")
        file = load_adapter(self._model, source, name=name, revision=revision)
        self._sources[name] = (None if Path(source).exists() else str(source), file.sha256)
        self._weights = {name: 1.0}
        self._apply()
        return file

    def choose(self, names: Sequence[str], weights: Sequence[float]) -> None:
        """Make these the only active adapters, at these weights.

        Raises:
            UsageError: If a name is unknown or repeated, the number of weights differs from the number of names, a
                weight is out of bounds, or adapters are fused.
        """
        self._refuse_if_fused("activate adapters")
        for name in names:
            if name not in self._sources:
                raise UsageError(unknown("adapter", name, self.names))
        if len(weights) != len(names) or len(set(names)) != len(names):
            what = f"{len(weights)} weights for {len(names)} adapters ({', '.join(names)})."
            raise UsageError(what, "each adapter takes one weight", "name each once, and give a weight to all or none")
        chosen = zip(names, weights, strict=True)
        self._weights = {name: require_weight(weight, f"The weight of {name!r}") for name, weight in chosen}
        self._apply()

    def enable(self, enabled: bool) -> None:
        """Enable or disable the active adapters.

        Raises:
            UsageError: If adapters are fused.
        """
        self._refuse_if_fused("enable or disable adapters")
        self._enabled = enabled
        self._apply()

    def fuse(self, scale: float) -> None:
        """Add the active adapters, times `scale`, to the layers' weights. The original weights are kept for `unfuse`.

        Raises:
            UsageError: If adapters are fused already, none is active, or the scale is out of bounds.
            WeightsError: If the sum overflows the weights' dtype. Nothing is changed in that case.
        """
        self._refuse_if_fused("fuse again")
        if not self._weights or not self._enabled:
            raise UsageError("There is nothing to fuse.", "no adapter is active", "load or activate one first")
        self._fused_scale = require_weight(scale, "lora_scale")
        self._apply()
        layers = lora_layers(self._model)
        self._unfused = {name: layer.get_base_layer().weight.data for name, layer in layers.items()}  # type: ignore[misc]
        try:
            for layer in layers.values():
                layer.merge(safe_merge=True, adapter_names=self.active)  # into a copy, so that the original is kept
        except ValueError as error:
            self.unfuse()
            raise WeightsError(
                "Can't fuse the adapters.", str(error), "use smaller weights, or load the model in fp32"
            ) from None

    def unfuse(self) -> None:
        """Restore the layers' original weights, bit for bit.

        Raises:
            UsageError: If no adapter is fused.
        """
        if not self._unfused:
            raise UsageError("There is nothing to unfuse.", "no adapter is fused", "fuse first")
        for name, layer in lora_layers(self._model).items():
            layer.get_base_layer().weight.data = self._unfused[name]
            layer.merged_adapters.clear()
        self._unfused, self._fused_scale = {}, 1.0
        self._apply()

    def unload(self) -> None:
        """Remove all adapters. The model is bit for bit as it was before the first was loaded.

        Raises:
            UsageError: If adapters are fused.
        """
        self._refuse_if_fused("unload adapters")
        for name, layer in lora_layers(self._model).items():
            self._model.set_submodule(name, layer.get_base_layer())
        self._sources, self._weights, self._enabled = {}, {}, True

    def delete(self, names: Sequence[str]) -> None:
        """Remove these adapters. Other active adapters stay active.

        Raises:
            UsageError: If a name is unknown, or adapters are fused.
        """
        self._refuse_if_fused("delete adapters")
        for name in names:
            if name not in self._sources:
                raise UsageError(unknown("adapter", name, self.names))
        if set(names) == set(self._sources):
            self.unload()
            return
        self._weights = {name: weight for name, weight in self._weights.items() if name not in names}
        self._apply()  # PEFT replaces an active adapter that is deleted, so deactivate them first
        for name in set(names):
            for layer in lora_layers(self._model).values():
                layer.delete_adapter(name)
            del self._sources[name]
        for name, layer in lora_layers(self._model).items():
            if not layer.lora_A:
                self._model.set_submodule(name, layer.get_base_layer())

    def used(self) -> list[UsedAdapter]:
        """List the adapters that take effect, in order."""
        scale, fused = self._fused_scale, bool(self._unfused)
        chosen = self._weights.items() if self._enabled else ()
        return [
            UsedAdapter(name=name, weight=weight * scale, source=source, sha256=sha256, fused=fused)
            for name, weight in chosen
            for source, sha256 in (self._sources[name],)
        ]

    def _apply(self) -> None:
        for layer in lora_layers(self._model).values():
            layer.set_adapter(self.active)
            for name, weight in self._weights.items():
                layer.set_scale(name, weight * self._fused_scale)
            layer.enable_adapters(self._enabled)
            layer.requires_grad_(False)  # PEFT marks active adapters as trainable

    def _refuse_if_fused(self, wish: str) -> None:
        if self._unfused:
            why = "they are part of the model's weights now"
            todo = "call unfuse_lora() first, or keep the merged model with save_pretrained()"
            raise UsageError(f"Can't {wish}: the adapters are fused.", why, todo)
