"""CLIP (Radford et al., arXiv 2103.00020): images and texts as vectors of one space, and the two uses that scores make.

`ClipColours` names the colours of objects as GenEval does. `HpsScorer` is HPSv2: a CLIP ViT-H/14 with other weights.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.errors import WeightsError
from bitvar.metrics.scorers.folders import ScorerFolder, digest_of_all, file_digest, normalized
from bitvar.weights.official.files import read_official

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Statistics of CLIP's training images."""

_TEMPLATES: Final = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
_GREY: Final = "#999"
"""Colour that hides what doesn't belong to an object."""


def embed_texts(model: Any, tokenizer: Any, texts: Sequence[str]) -> Float[Tensor, "b d"]:
    """Embed texts as unit vectors. Texts longer than the model reads are cut, as CLIP's own code does."""
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
    ids, mask = tokens["input_ids"].to(model.device), tokens["attention_mask"].to(model.device)
    hidden = model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
    # the sentence's vector is that of its last token, whatever number the vocabulary gives to the end
    ends = hidden[torch.arange(len(texts), device=hidden.device), mask.sum(dim=1) - 1]
    return F.normalize(model.text_projection(ends).float(), dim=-1)


def embed_pixels(model: Any, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]:
    """Embed normalised images as unit vectors."""
    seen = model.vision_model(pixel_values=pixels.to(model.device, model.dtype)).pooler_output
    return F.normalize(model.visual_projection(seen).float(), dim=-1)


def crop_square(image: Image.Image, side: int) -> Image.Image:
    """Scale the shorter side to `side` pixels (bicubic) and crop the middle."""
    short = min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    scaled = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return scaled.crop((left, top, left + side, top + side))


class ClipColours:
    """Names the colour of objects by zero-shot classification, as GenEval does.

    Args:
        folder: CLIP model in the format of transformers, with its tokenizer; GenEval uses OpenAI's ViT-L/14.
        colours: Names to choose from.
        device: Device of the network.
    """

    def __init__(self, folder: ScorerFolder, colours: Sequence[str], device: torch.device | str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        model: Any = folder.load(CLIPModel.from_pretrained, use_safetensors=True)
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = folder.load(AutoTokenizer.from_pretrained)
        self.colours = tuple(colours)
        self._classifiers: dict[str, Float[Tensor, "c d"]] = {}

    @torch.inference_mode()
    def __call__(self, image: Image.Image, objects: Sequence[tuple[Any, Any]], name: str) -> list[str]:
        """Name the colour of each object.

        Args:
            image: The whole image.
            objects: Box (left, top, right, bottom) and mask (booleans of the image's size, or None) of each.
            name: Their class.
        """
        if not objects:
            return []
        side = self.model.config.vision_config.image_size
        crops = [crop_square(_cut_out(image, box, mask), side) for box, mask in objects]
        vectors = embed_pixels(self.model, torch.stack([normalized(crop, MEAN, STD) for crop in crops]))
        return [self.colours[i] for i in (vectors @ self._classifier(name).T).argmax(dim=1).tolist()]

    def _classifier(self, name: str) -> Float[Tensor, "c d"]:
        if name not in self._classifiers:
            texts = [each.format(colour=colour, name=name) for colour in self.colours for each in _TEMPLATES]
            vectors = embed_texts(self.model, self.tokenizer, texts).reshape(len(self.colours), len(_TEMPLATES), -1)
            self._classifiers[name] = F.normalize(vectors.mean(dim=1), dim=-1)
        return self._classifiers[name]


def _cut_out(image: Image.Image, box: Sequence[float], mask: Any) -> Image.Image:
    whole = image.convert("RGB")
    if mask is not None:
        whole = Image.composite(whole, Image.new("RGB", whole.size, _GREY), Image.fromarray(mask))
    left, top, right, bottom = (round(edge) for edge in box)
    return whole.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


class HpsScorer:
    """Human Preference Score v2 and v2.1 (Wu et al., arXiv 2306.09341): cosine of image and prompt in a tuned CLIP.

    Images are scaled so that the longer side fits, and padded with black, as the published code does.

    Args:
        checkpoint: `HPS_v2.1_compressed.pt`, or the same tensors as safetensors.
        tokenizer: Folder with CLIP's tokenizer, such as that of OpenAI's ViT-L/14.
        device: Device of the network.
        dtype: Precision of the network.
    """

    def __init__(
        self,
        checkpoint: Path,
        tokenizer: ScorerFolder,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = tokenizer.load(AutoTokenizer.from_pretrained)
        self.model = clip_from_open_clip(read_official(checkpoint)).to(device, dtype)
        self.sha256 = digest_of_all([file_digest(checkpoint), tokenizer.sha256])

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Score images, each by its prompt: cosines, which reports multiply by 100."""
        side = self.model.config.vision_config.image_size
        pixels = torch.stack([_padded(image, side) for image in images])
        cosines = embed_pixels(self.model, pixels) * embed_texts(self.model, self.tokenizer, prompts)
        return cosines.sum(dim=1).tolist()


def _padded(image: Image.Image, side: int) -> Float[Tensor, "3 s s"]:
    """Scale an image so that its longer side fits (bicubic, on floats), pad it with black and normalise it."""
    planes = normalized(image, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    height, width = planes.shape[1:]
    scale = side / max(height, width)
    if scale != 1:
        size = (round(height * scale), round(width * scale))
        planes = F.interpolate(planes[None], size=size, mode="bicubic", antialias=True, align_corners=False)[0]
        down, across = side - size[0], side - size[1]
        planes = F.pad(planes, (across // 2, across - across // 2, down // 2, down - down // 2))
    return (planes - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def clip_from_open_clip(tensors: Mapping[str, Tensor]) -> Any:
    """Build transformers' CLIP from the tensors of an open_clip model with towers of plain transformers.

    All sizes follow from the tensors' shapes. A vision head is 80 wide if that divides the width of ViT-H/14, else 64.

    Raises:
        WeightsError: if tensors are missing, or others are there.
    """
    from transformers import CLIPConfig, CLIPModel

    try:
        vision, text = _tower_sizes(tensors, "visual."), _tower_sizes(tensors, "")
        patch = tensors["visual.conv1.weight"].shape[-1]
        cells = tensors["visual.positional_embedding"].shape[0] - 1
        config = CLIPConfig(
            text_config={
                **text,
                "vocab_size": tensors["token_embedding.weight"].shape[0],
                "max_position_embeddings": tensors["positional_embedding"].shape[0],
                "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
            },
            vision_config={**vision, "image_size": patch * round(cells**0.5), "patch_size": patch},
            projection_dim=tensors["text_projection"].shape[1],
        )  # fmt: skip
    except KeyError as error:
        raise WeightsError(
            "This is no open_clip checkpoint.", f"it has no tensor {error}", "give the published file"
        ) from None
    model = CLIPModel(config)
    model.load_state_dict(_renamed(tensors), strict=True)
    return model.eval().requires_grad_(False)


def _tower_sizes(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    blocks = re.compile(rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\.")
    layers = {int(found[1]) for name in tensors if (found := blocks.match(name))}
    hidden, width = tensors[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"].shape
    head = 80 if prefix and width % 80 == 0 else min(64, width)
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // head,
        "hidden_act": "gelu",
    }


_NAMES: Final = (
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
)
"""Names of open_clip and of transformers; the projections are apart, since they are stored transposed."""


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for old, tensor in tensors.items():
        name = old
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        if old == "visual.proj":
            renamed["visual_projection.weight"] = tensor.T.contiguous()
        elif old == "text_projection":
            renamed["text_projection.weight"] = tensor.T.contiguous()
        elif found := re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name):
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{found[1]}.self_attn.{part}_proj.{found[2]}"] = rows
        elif old != "attn_mask":
            renamed[name] = tensor
    return renamed
