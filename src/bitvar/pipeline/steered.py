"""From a request to hooks of the sampling loop: its edit, its further prompts, and its second seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops

from bitvar.condition import TextCondition
from bitvar.editing.mixture import PromptMixture, prompt_weights
from bitvar.editing.paste import mask_of_gate, paste
from bitvar.editing.plan import SEAM, EditPlan, plan_edit
from bitvar.editing.probe import prompt_logits
from bitvar.editing.seeds import MixedNoise
from bitvar.editing.source import EditSource, Original
from bitvar.editing.spec import EditSpec, EditSummary
from bitvar.errors import UsageError
from bitvar.imaging.alpha import flatten
from bitvar.pipeline.request import GenerationRequest
from bitvar.sampling.constraint import BitConstraint
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.sampling.params import SamplingParams, spread_over_scales
from bitvar.sampling.quality import QualityOptions
from bitvar.sampling.quality_transforms import quality_transforms
from bitvar.sampling.steering import Steering
from bitvar.scales import ScaleSchedule, code_norms_of
from bitvar.tokenizer import ImageTokenizer

Finish = Callable[[int, Image.Image], Image.Image]
"""Makes the finished image of the index of an image of the call, and of what the model drew."""

Encode = Callable[[Sequence[str], str], TextCondition]
"""Encodes texts, which errors call by the given name, such as "source prompt"."""


@dataclass(frozen=True)
class Hooks:
    """What a request adds to plain generation.

    Attributes:
        constraint: Constraint on bits; None for none.
        steering: Hooks of the loop; None for none.
        metadata: What the metadata of its images say of it.
        finish: Last step from what the model drew to an image; None for none.
    """

    constraint: BitConstraint | None = None
    steering: Steering | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    finish: Finish | None = None


@dataclass(frozen=True)
class HookBuilder:
    """Builds the hooks of one call.

    Attributes:
        decoder: Decoder that computes logits.
        tokenizer: Tokenizer of the model.
        encode: Encoder of texts.
        schedule: Grids that the call generates.
        params: Complete sampling parameters.
        condition: Condition of the prompts, a row for each image.
        negative: Condition that guidance steers away from, a row for each image; None for no text.
        seeds: Seed of each image.
    """

    decoder: ScaleDecoder[Any]
    tokenizer: ImageTokenizer
    encode: Encode
    schedule: ScaleSchedule
    params: SamplingParams
    condition: TextCondition
    negative: TextCondition | None
    seeds: Sequence[int]

    def build(self, request: GenerationRequest, original: Original | None) -> Hooks:
        """Build the hooks of a request.

        Args:
            request: The request.
            original: Decoded images of its edit; None without an edit.

        Raises:
            UsageError: for settings that don't fit the model or its number of scales.
        """
        hooks = Hooks()
        if request.edit is not None:
            assert original is not None, "the image decides the size before"
            hooks = self._edited(request.edit, original, request)
        if request.mix:
            hooks = self._mixed(request, hooks)
        if request.mixed_seed is not None:
            weights = spread_over_scales("The weight of the second seed", request.mixed_seed.weight, len(self.schedule))
            noise = MixedNoise(self.seeds, request.mixed_seed.seed, weights)
            steering = replace(hooks.steering or Steering(), noise=noise)
            metadata = {**hooks.metadata, "mixed_seed": request.mixed_seed.model_dump(mode="json")}
            hooks = replace(hooks, steering=steering, metadata=metadata)
        if request.quality is not None:
            hooks = self._with_quality(request.quality, hooks)
        return hooks

    def _with_quality(self, quality: QualityOptions, hooks: Hooks) -> Hooks:
        scales, patch_size = self.params.scales(len(self.schedule)), self.decoder.config.patch_size
        transforms = quality_transforms(quality, self.schedule, scales, patch_size=patch_size)
        steering = replace(hooks.steering or Steering(), transforms=transforms)
        metadata = {**hooks.metadata, "quality": quality.model_dump(mode="json", exclude_none=True)}
        return replace(hooks, steering=steering if transforms else hooks.steering, metadata=metadata)

    def _edited(self, spec: EditSpec, original: Original, request: GenerationRequest) -> Hooks:
        config = self.decoder.config
        grids = self.schedule.latent_grids(config.patch_size)
        source = EditSource.encode(original, spec, self.tokenizer, grids)
        described = None if spec.source_prompt is None else self.encode([spec.source_prompt], "source prompt")
        reference = None if described is None else TextCondition.join([described] * len(self.seeds))

        conditions, prompts = self.condition.rows(), request.repeated_prompts()
        against = self.negative.rows()[0] if self.negative else None  # an edit has one negative prompt
        probed: dict[str | None, list[torch.Tensor]] = {}

        def probe(bits: Sequence[torch.Tensor], index: int | None) -> list[torch.Tensor]:
            key, one = (None, described) if index is None else (prompts[index], conditions[index])
            assert one is not None, "methods that probe have a source prompt"
            if key not in probed:  # images of one prompt share it
                probed[key] = prompt_logits(
                    self.decoder, one, self.schedule, bits, params=self.params, negative=against
                )
            return probed[key]

        plan = plan_edit(
            spec,
            source,
            params=self.params.scales(len(self.schedule)),
            seeds=self.seeds,
            patch_size=config.patch_size,
            code_norms=code_norms_of(config.code_norms, len(self.schedule)),
            reference=reference,
            probe=probe,
        )
        metadata: dict[str, Any] = {"edit": EditSummary.of(spec, plan.kept).model_dump(mode="json", exclude_none=True)}
        finish = None
        if spec.exact:
            width, height = original.image.size
            metadata |= {"requested_width": width, "requested_height": height, "exact_size": True}
            may_be = self.tokenizer.config.has_opacity or _is_transparent(original.image)
            finish = _exact(spec, source, plan, transparent=may_be and request.background != "opaque")
        return Hooks(plan.constraint, plan.steering, metadata, finish)

    def _mixed(self, request: GenerationRequest, hooks: Hooks) -> Hooks:
        steering = hooks.steering or Steering()
        if steering.processor is not None or steering.references:
            why = "its method compares two prompts itself"
            raise UsageError("This edit can't mix further prompts.", why, "use the method redraw with them")
        encoded = self.encode([mixed.prompt for mixed in request.mix], "mixed prompt").rows()
        references = tuple(TextCondition.join([row] * len(self.seeds)) for row in encoded)
        processor = PromptMixture(prompt_weights(request.mix, self.schedule.grids))
        metadata = {**hooks.metadata, "mix": [mixed.model_dump(mode="json") for mixed in request.mix]}
        steering = replace(steering, processor=processor, references=references)
        return replace(hooks, steering=steering, metadata=metadata)


def _exact(spec: EditSpec, source: EditSource, plan: EditPlan, *, transparent: bool) -> Finish:
    """Make the last step of an exact edit, whose images are RGBA if `transparent`, and otherwise RGB on white."""
    given = source.original.mask
    feather = SEAM if spec.feather is None else spec.feather

    def finish(index: int, drawn: Image.Image) -> Image.Image:
        mask, blur = given, feather
        if plan.found_gate is not None:
            found = mask_of_gate(plan.found_gate[index, 0], source.frame)
            mask, blur = found if given is None else ImageChops.multiply(found, given), 0.0
        assert mask is not None, "the specification asks for a mask, or for one to be found"
        whole = paste(source.original.image, mask, drawn, source.frame, feather=blur)
        return whole if transparent else flatten(whole)

    return finish


def _is_transparent(image: Image.Image) -> bool:
    return int(np.asarray(image.getchannel("A")).min()) < 255
