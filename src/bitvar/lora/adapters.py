"""The adapters that a model carries: which of them count, how much, and whether they are fused into its weights."""

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
"""The largest weight of an adapter, either way. Useful ones lie between -2 and 2."""


def require_weight(weight: float, what: str) -> float:
    """A weight that an adapter may have.

    Args:
        weight: how much it shall count.
        what: names it in the error.

    Raises:
        UsageError: for one that is no number, not finite, or beyond `STRONGEST`.
    """
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not -STRONGEST <= weight <= STRONGEST:
        why = f"it must be a number from {-STRONGEST:g} to {STRONGEST:g}; most adapters are made for 0 to 1"
        raise UsageError(f"{what} is {str(weight)[:40]}.", why, "give a smaller number, such as 0.8")
    return float(weight)


class Adapters:
    """Loads, weighs, fuses and removes adapters of one model, in place. Not while images are being drawn.

    Args:
        model: whose layers are wrapped and unwrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._sources: dict[str, tuple[str | None, str]] = {}  # by name: hub id, sha256
        self._weights: dict[str, float] = {}  # of the active ones, in order
        self._enabled = True
        self._unfused: dict[str, Tensor] = {}  # the weights of each layer before fusing; empty when not fused
        self._fused_scale = 1.0

    @property
    def names(self) -> list[str]:
        """Every adapter loaded, in order."""
        return list(self._sources)

    @property
    def active(self) -> list[str]:
        """Those chosen, whether enabled or not."""
        return list(self._weights)

    def load(self, source: str | Path, *, name: str, revision: str | None = None) -> AdapterFile:
        """Load one and choose it alone, at weight 1. Errors: see `load_adapter`; also when fused."""
        self._refuse_if_fused("load another")
        file = load_adapter(self._model, source, name=name, revision=revision)
        self._sources[name] = (None if Path(source).exists() else str(source), file.sha256)
        self._weights = {name: 1.0}
        self._apply()
        return file

    def choose(self, names: Sequence[str], weights: Sequence[float]) -> None:
        """Let these count, each as much as its weight says, and no others.

        Raises:
            UsageError: for an unknown or repeated name, not one weight a name, one out of bounds, or when fused.
        """
        self._refuse_if_fused("choose adapters")
        for name in names:
            if name not in self._sources:
                raise UsageError(unknown("adapter", name, self.names))
        if len(weights) != len(names) or len(set(names)) != len(names):
            what = f"{len(weights)} weights for {len(names)} adapters ({', '.join(names)})."
            raise UsageError(what, "each adapter takes one", "name each once, and give each a weight or none")
        chosen = zip(names, weights, strict=True)
        self._weights = {name: require_weight(weight, f"The weight of {name!r}") for name, weight in chosen}
        self._apply()

    def enable(self, enabled: bool) -> None:
        """Let those chosen count, or none.

        Raises:
            UsageError: when fused.
        """
        self._refuse_if_fused("switch them")
        self._enabled = enabled
        self._apply()

    def fuse(self, scale: float) -> None:
        """Add those chosen, `scale` times, to the layers' own weights, which are kept for `unfuse`.

        Raises:
            UsageError: when fused already, when none counts, or for a scale out of bounds.
            WeightsError: when the sum overflows the weights' dtype; nothing is changed then.
        """
        self._refuse_if_fused("fuse again")
        if not self._weights or not self._enabled:
            raise UsageError("There is nothing to fuse.", "no adapter is active", "load or choose one first")
        self._fused_scale = require_weight(scale, "lora_scale")
        self._apply()
        layers = lora_layers(self._model)
        self._unfused = {name: layer.get_base_layer().weight.data for name, layer in layers.items()}  # type: ignore[misc]
        try:
            for layer in layers.values():
                layer.merge(safe_merge=True, adapter_names=self.active)  # into a copy, so what is kept is the original
        except ValueError as error:
            self.unfuse()
            raise WeightsError(
                "Can't fuse the adapters.", str(error), "use smaller weights, or load the model in fp32"
            ) from None

    def unfuse(self) -> None:
        """Bring the layers' own weights back, to the bit.

        Raises:
            UsageError: when not fused.
        """
        if not self._unfused:
            raise UsageError("There is nothing to unfuse.", "no adapter is fused", "fuse first")
        for name, layer in lora_layers(self._model).items():
            layer.get_base_layer().weight.data = self._unfused[name]
            layer.merged_adapters.clear()
        self._unfused, self._fused_scale = {}, 1.0
        self._apply()

    def unload(self) -> None:
        """Take every adapter off: the model is what it was before the first, to the bit.

        Raises:
            UsageError: when fused.
        """
        self._refuse_if_fused("unload them")
        for name, layer in lora_layers(self._model).items():
            self._model.set_submodule(name, layer.get_base_layer())
        self._sources, self._weights, self._enabled = {}, {}, True

    def delete(self, names: Sequence[str]) -> None:
        """Take these adapters off; of those chosen, the others go on counting.

        Raises:
            UsageError: for an unknown name, or when fused.
        """
        self._refuse_if_fused("delete adapters")
        for name in names:
            if name not in self._sources:
                raise UsageError(unknown("adapter", name, self.names))
        if set(names) == set(self._sources):
            self.unload()
            return
        self._weights = {name: weight for name, weight in self._weights.items() if name not in names}
        self._apply()  # so that none of them is active, in whose place PEFT would choose another
        for name in set(names):
            for layer in lora_layers(self._model).values():
                layer.delete_adapter(name)
            del self._sources[name]
        for name, layer in lora_layers(self._model).items():
            if not layer.lora_A:
                self._model.set_submodule(name, layer.get_base_layer())

    def used(self) -> list[UsedAdapter]:
        """Those that count, in order."""
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
            layer.requires_grad_(False)  # PEFT takes an active adapter for one in training

    def _refuse_if_fused(self, wish: str) -> None:
        if self._unfused:
            why = "the model's weights hold them now"
            todo = "call unfuse_lora() first, or keep the merged model with save_pretrained()"
            raise UsageError(f"Can't {wish}: the adapters are fused.", why, todo)
