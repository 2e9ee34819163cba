"""Write the folder of MobileNetV2 in the package, from the weights that torchvision publishes.

python scripts/vendor/mobilenet.py mobilenet_v2-b0353104.pth --out src/bitvar/pretrained/mobilenet_v2

torchvision publishes the file as `MobileNet_V2_Weights.IMAGENET1K_V1`, at
https://download.pytorch.org/models/mobilenet_v2-b0353104.pth. Any copy will do, since its sha256 is
checked. The classifier is left out. Convolutions are stored in half precision. Batch norms stay in single precision:
they are small, and their error would add to that of the convolutions. Tensors are named as in `transformers`.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.mobilenet_v2 import MobileNetV2Config, MobileNetV2Model

from bitvar.weights.digests import digest, write_manifest

SOURCE = "mobilenet_v2-b0353104.pth"
SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
CARD = Path(__file__).with_name("mobilenet.md")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the MobileNetV2 folder of the package.")
    parser.add_argument("source", type=Path, help=f"a copy of {SOURCE}")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    found = digest(options.source)
    if found != SHA256:
        parser.error(f"{options.source} has sha256 {found}, not {SHA256}")
    tensors = feature_tensors(torch.load(options.source, weights_only=True))
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, options.out / "model.safetensors")
    shutil.copyfile(CARD, options.out / "README.md")
    write_manifest(options.out)


def feature_tensors(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors before the classifier as in transformers, which lists them in the same order."""
    with torch.device("meta"):
        wanted = MobileNetV2Model(MobileNetV2Config()).state_dict()
    features = {name: tensor for name, tensor in published.items() if name.startswith("features.")}
    tensors = {}
    for (name, shape), (source, tensor) in zip(wanted.items(), features.items(), strict=True):
        if shape.shape != tensor.shape or name.rsplit(".", 1)[-1] != source.rsplit(".", 1)[-1]:
            raise ValueError(f"{source} {tuple(tensor.shape)} can't be {name} {tuple(shape.shape)}")
        tensors[name] = tensor.half() if tensor.ndim == 4 else tensor
    return tensors


if __name__ == "__main__":
    main()
