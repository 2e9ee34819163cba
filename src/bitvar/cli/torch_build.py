"""What torch was built for, and what a build for GPUs costs without one. Works without importing torch."""

import importlib.metadata
import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_GPU_PACKAGES: Final = re.compile(r"(nvidia|cuda|triton)([-_].*)?$", re.IGNORECASE)
"""Distributions that a build for NVIDIA's GPUs brings along."""

_DRIVER: Final = ("/dev/nvidia0", "/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg")
"""Files that are there with the driver of an NVIDIA GPU, the last one under WSL."""


@dataclass(frozen=True)
class TorchBuild:
    """The build of torch in this environment.

    Attributes:
        name: "CPU", or the platform with its version, such as "CUDA 13.0"; empty without torch.
        version: Version without the build, such as "2.13.0".
        gpu_bytes: Bytes of the distributions that only GPUs use, and of torch's own libraries for GPUs.
    """

    name: str
    version: str
    gpu_bytes: int

    @property
    def is_cuda(self) -> bool:
        """Whether it was built for NVIDIA's GPUs."""
        return self.name.startswith("CUDA")


def find_torch_build() -> TorchBuild:
    """Read what the torch of this environment was built for."""
    spec = importlib.util.find_spec("torch")
    place = Path(spec.origin).parent if spec is not None and spec.origin else None
    if place is None:
        return TorchBuild("", "", 0)
    try:
        text = (place / "version.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^__version__\s*=\s*'([^'+]+)", text, flags=re.MULTILINE)
    version = found[1] if found else ""
    for platform, label in (("cuda", "CUDA"), ("hip", "ROCm"), ("xpu", "XPU")):
        built = re.search(rf"^{platform}[^=\n]*=\s*'([^']+)'", text, flags=re.MULTILINE)
        if built:
            return TorchBuild(f"{label} {built[1]}", version, _gpu_bytes(place) if label == "CUDA" else 0)
    return TorchBuild("CPU", version, 0)


def may_have_nvidia_gpu() -> bool:
    """Whether there is a sign of an NVIDIA GPU: its tool, or its driver."""
    return shutil.which("nvidia-smi") is not None or any(Path(path).exists() for path in _DRIVER)


def explain_build(build: TorchBuild) -> str:
    """Say in one line what a build is, and what it costs where no GPU is."""
    if not build.is_cuda or may_have_nvidia_gpu():
        return build.name or "none"
    return f"{build.name}, {build.gpu_bytes / 1e9:.1f} GB of it for a GPU, and no GPU was found"


def how_to_shrink(build: TorchBuild) -> str | None:
    """Say how to replace a build for GPUs on a machine without one; None where there is nothing to do."""
    if not build.is_cuda or may_have_nvidia_gpu():
        return None
    remove = " ".join(sorted({name for name, _ in _gpu_distributions()}))
    return (
        f"To free {build.gpu_bytes / 1e9:.1f} GB, replace torch by its build for CPUs:\n"
        f"  pip uninstall -y torch {remove}\n"
        f"  uv pip install --torch-backend=cpu torch=={build.version}\n"
        "Without uv, take pip's line from PyTorch's page \"Get started\", with Compute Platform: CPU."
    )


def _gpu_bytes(torch: Path) -> int:
    """Add up what only GPUs use: the distributions, and torch's libraries for CUDA."""
    libraries = sum(path.stat().st_size for path in (torch / "lib").glob("*cu*") if path.is_file())
    return libraries + sum(size for _, size in _gpu_distributions())


def _gpu_distributions() -> list[tuple[str, int]]:
    """List the distributions that only GPUs use, with their bytes."""
    found = []
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if _GPU_PACKAGES.match(name):
            found.append((name, sum(file.size or 0 for file in distribution.files or ())))
    return found
