"""The text side of the transformer: adapter, null features, pooling and cross-attention memory."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bitvar.condition import TextCondition
from bitvar.nn.attention import attend
from bitvar.nn.linear import Linear
from bitvar.nn.norms import LayerNorm, RMSNorm
from bitvar.transformer.config import TransformerConfig


class AdapterLayer(nn.Module):
    """A pre-norm transformer layer over the tokens of one prompt."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.ffn_norm = LayerNorm(width)
        self.fc1 = Linear(width, 2 * width)
        self.fc2 = Linear(2 * width, width)

    def forward(self, x: Float[Tensor, "b t w"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t w"]:
        q, k, v = rearrange(self.qkv(self.attention_norm(x)), "b t (s n e) -> s b n t e", s=3, n=self.num_heads)
        attended = attend(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask[:, None, None])
        x = x + self.proj(rearrange(attended, "b n t e -> b t (n e)"))
        return x + self.fc2(F.gelu(self.fc1(self.ffn_norm(x)), approximate="tanh"))


class TextAdapter(nn.Module):
    """Trainable layers over the early and last hidden states of a small frozen encoder.

    The last layer of a small sentence encoder hardly separates "a red cube and a blue sphere" from the same prompt with
    the colours swapped, while its first layer still holds every word in order. The adapter reads both and learns which
    attribute belongs to which object. No official model has an adapter.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.condition_width
        self.norm = LayerNorm(config.text_width)
        self.proj = Linear(config.text_width, width)
        self.layers = nn.ModuleList(AdapterLayer(width, max(1, width // 64)) for _ in range(config.text_adapter_depth))

    def forward(self, features: Float[Tensor, "b t v"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t w"]:
        x = self.proj(self.norm(features))
        for layer in self.layers:
            x = layer(x, mask)
        return x


class TextPool(nn.Module):
    """Attention pooling with one learned query, which reduces a prompt to one vector."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(config.pool_heads, config.width // config.pool_heads))
        self.kv = Linear(config.condition_width, 2 * config.width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.proj = Linear(config.width, config.width)

    def forward(self, text: Float[Tensor, "b t w"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b c"]:
        k, v = self.kv(text).chunk(2, dim=-1)
        v = v + self.v_bias.to(v.dtype)
        heads, head_dim = self.query.shape
        k, v = (rearrange(part, "b t (n e) -> b n t e", n=heads) for part in (k, v))
        q = repeat(self.query.to(k.dtype), "n e -> b n 1 e", b=len(text))
        pooled = attend(q, k, v, scale=head_dim**-0.5, mask=mask[:, None, None])
        return self.proj(rearrange(pooled, "b n 1 e -> b (n e)"))


class TextEmbedding(nn.Module):
    """Map a `TextCondition` to the pooled vector and the cross-attention memory."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.adapter = TextAdapter(config) if config.text_adapter_depth else None
        self.null = nn.Parameter(torch.empty(config.max_text_tokens, config.condition_width))
        self.norm = RMSNorm(config.condition_width)
        self.pool = TextPool(config)
        self.fc1 = Linear(config.condition_width, width)
        self.fc2 = Linear(width, width)

    def forward(
        self, condition: TextCondition, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b t c"]]:
        features = condition.features.to(dtype)
        if self.adapter is not None:
            features = self.adapter(features, condition.mask)
        null = self.null[: features.shape[1]].to(dtype)
        text = self.norm(torch.where(condition.dropped[:, None, None], null, features))
        memory = self.fc2(F.gelu(self.fc1(text), approximate="tanh"))
        return self.pool(text, condition.mask), memory
