"""The next-scale bitwise transformer."""

from bitvar.transformer.block import Block
from bitvar.transformer.config import PRESETS, ScheduleConfig, TransformerConfig
from bitvar.transformer.loss import bit_losses, bitwise_loss, token_weights
from bitvar.transformer.model import DecodeState, EncodedCondition, InfinityTransformer

__all__ = [
    "PRESETS",
    "Block",
    "DecodeState",
    "EncodedCondition",
    "InfinityTransformer",
    "ScheduleConfig",
    "TransformerConfig",
    "bit_losses",
    "bitwise_loss",
    "token_weights",
]
