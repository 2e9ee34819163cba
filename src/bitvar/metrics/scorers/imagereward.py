"""ImageReward (Xu et al., arXiv 2304.05977): BLIP's image and text encoders, and a small head that gives the reward."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor, nn

from bitvar.errors import WeightsError
from bitvar.metrics.scorers.clip import MEAN, STD, crop_square
from bitvar.metrics.scorers.folders import ScorerFolder, digest_of_all, file_digest, normalized
from bitvar.weights.official.files import read_official

_MEAN_REWARD: Final = 0.16717362830052426
_STD_REWARD: Final = 1.0333394966054072
"""Statistics by which the published code normalises rewards."""

_MAX_TOKENS: Final = 35
_HEAD: Final = 64  # width of an attention head in both encoders


class ImageRewardScorer:
    """Rewards of images by their prompts, about standard normal over the authors' images.

    Args:
        checkpoint: `ImageReward.pt`, or the same tensors as safetensors.
        tokenizer: Folder with the tokenizer of `bert-base-uncased`.
        device: Device of the network.
        dtype: Precision of the encoders; the head computes in fp32.
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
        vision, text, head = imagereward_from(read_official(checkpoint))
        self.vision, self.text, self.head = vision.to(device, dtype), text.to(device, dtype), head.to(device)
        self.device, self.dtype = torch.device(device), dtype
        self.sha256 = digest_of_all([file_digest(checkpoint), tokenizer.sha256])

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Score images, each by its prompt."""
        side = self.vision.config.image_size
        pixels = torch.stack([normalized(crop_square(image, side), MEAN, STD) for image in images])
        seen = self.vision(pixel_values=pixels.to(self.device, self.dtype)).last_hidden_state
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        ).to(self.device)
        read = self.text(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self.device),
            is_decoder=False,
        ).last_hidden_state
        rewards = self.head(read[:, 0].float()).squeeze(1)
        return ((rewards - _MEAN_REWARD) / _STD_REWARD).tolist()


def imagereward_from(tensors: Mapping[str, Tensor]) -> tuple[Any, Any, nn.Sequential]:
    """Build BLIP's two encoders and the head from ImageReward's tensors. All sizes follow from the shapes.

    Raises:
        WeightsError: if tensors are missing.
    """
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    try:
        patch = tensors["blip.visual_encoder.patch_embed.proj.weight"]
        hidden, width = tensors["blip.visual_encoder.blocks.0.mlp.fc1.weight"].shape
        cells = tensors["blip.visual_encoder.pos_embed"].shape[1] - 1
        vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=width, intermediate_size=hidden, patch_size=patch.shape[-1], layer_norm_eps=1e-6,
                image_size=patch.shape[-1] * round(cells**0.5), num_attention_heads=max(1, width // _HEAD),
                num_hidden_layers=_count(tensors, r"blip\.visual_encoder\.blocks\.(\d+)\."),
            )
        )  # fmt: skip
        words, text_width = tensors["blip.text_encoder.embeddings.word_embeddings.weight"].shape
        text = BlipTextModel(
            BlipTextConfig(
                vocab_size=words, hidden_size=text_width, encoder_hidden_size=width,
                intermediate_size=tensors["blip.text_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0],
                max_position_embeddings=tensors["blip.text_encoder.embeddings.position_embeddings.weight"].shape[0],
                num_attention_heads=max(1, text_width // _HEAD),
                num_hidden_layers=_count(tensors, r"blip\.text_encoder\.encoder\.layer\.(\d+)\."),
                is_decoder=True, bos_token_id=0, eos_token_id=0, pad_token_id=0, sep_token_id=0,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        vision.load_state_dict(_vision_names(tensors), strict=True)
        prefix = "blip.text_encoder."
        text.load_state_dict(
            {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix) and not name.endswith(".position_ids")
            },
            strict=True,
        )
        head = _head(tensors)
    except (KeyError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise WeightsError("This is no ImageReward checkpoint.", why, "give the published ImageReward.pt") from None
    return vision.eval().requires_grad_(False), text.eval().requires_grad_(False), head


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def _head(tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """Build the head: linear layers in a row, without anything between them in evaluation."""
    names = sorted(
        (name for name in tensors if re.fullmatch(r"mlp\.layers\.\d+\.weight", name)),
        key=lambda name: int(name.split(".")[2]),
    )
    layers = []
    for name in names:
        weight, bias = tensors[name], tensors[name.removesuffix("weight") + "bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    if not layers:
        raise KeyError("mlp.layers.0.weight")
    return nn.Sequential(*layers).eval().requires_grad_(False)


_VISION: Final = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"^norm\.", "post_layernorm."),
    (r"\.norm1\.", ".layer_norm1."),
    (r"\.norm2\.", ".layer_norm2."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
)


def _vision_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix, renamed = "blip.visual_encoder.", {}
    for old, tensor in tensors.items():
        if old.startswith(prefix):
            name = old.removeprefix(prefix)
            for pattern, new in _VISION:
                name = re.sub(pattern, new, name)
            renamed[name] = tensor
    return renamed
