"""The numbers of VAREdit's released code, in fp32 on a small random model: both guided rows, at two sizes.

The reference was computed by that code with its attention kernels replaced by PyTorch's and its table of sizes by grids
of 1 x 1 to 13 x 13 tokens. Under "0.06M" it ends at 7 x 7, where the table of positions is read in order.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bitvar import pyramid
from bitvar.bits import bits_to_codes
from bitvar.condition import TextCondition
from bitvar.instruction.decoder import SourceDecoder
from bitvar.instruction.forward import edit_logits
from bitvar.scales import ScaleSchedule
from bitvar.transformer import InfinityTransformer
from bitvar.weights.official.names import from_official

REFERENCE = Path(__file__).parents[2] / "reference" / "instruction_prefix.safetensors"
LARGEST = (13, 13)
TOLERANCE = 1e-5


@pytest.mark.parametrize("budget", ["0.06M", "1M"])
@torch.no_grad()
def test_logits_equal_those_of_the_released_code(budget: str) -> None:
    tensors = load_file(REFERENCE)
    own = {name.removeprefix(f"{budget}."): tensor for name, tensor in tensors.items() if name.startswith(f"{budget}.")}
    official = {name.removeprefix("weights."): t.float() for name, t in tensors.items() if name.startswith("weights.")}
    converted = from_official(official, source="the reference")
    model = InfinityTransformer(converted.config)  # type: ignore[arg-type]
    model.load_state_dict(converted.tensors)
    schedule = ScaleSchedule(tuple((int(h), int(w)) for h, w in own["grids"]), LARGEST)
    latent = pyramid.empty_latent(1, model.config.bits, schedule[-1], torch.device("cpu"))
    inputs = []
    for k, grid in enumerate(schedule.grids[1:]):
        latent = pyramid.add_scale(latent, bits_to_codes(own[f"bits.{k:02d}"], 1.0))
        inputs.append(pyramid.next_input(latent, grid).repeat(2, 1, 1, 1))
    condition = TextCondition.from_list([own["text"]])
    rows = condition.concatenate(condition.drop(torch.tensor([True])))
    source = own["source"].repeat(2, 1, 1, 1)
    forced = edit_logits(model, rows, source, inputs, schedule, positions="official")
    assert (forced - own["logits"]).abs().max() < TOLERANCE
    assert (edit_logits(model, rows, source, inputs, schedule) - own["logits"]).abs().max() > 1000 * TOLERANCE

    decoder = SourceDecoder(model, own["source"], positions="official")
    state = decoder.start_decoding(rows, schedule)
    tokens, decoded = state.start, []
    for k in range(len(schedule)):
        decoded.append(decoder.decode_scale(tokens, k, state))
        if k + 1 < len(schedule):
            tokens = decoder.embed(inputs[k], k + 1)
    assert (torch.cat(decoded, dim=1) - own["logits"]).abs().max() < TOLERANCE
