"""Where an image came from: watermark keys and their detection, and signed manifests (C2PA).

The names below load on first use, so that signing needs no torch and detecting needs no C2PA library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitvar.provenance.detection import Detection as Detection
    from bitvar.provenance.detection import WatermarkDetector as WatermarkDetector
    from bitvar.provenance.key_files import read_key as read_key
    from bitvar.provenance.key_files import write_key as write_key
    from bitvar.provenance.manifests import ManifestReport as ManifestReport
    from bitvar.provenance.manifests import Signer as Signer
    from bitvar.provenance.manifests import read_manifest as read_manifest
    from bitvar.sampling.watermark import Watermark as Watermark

_HOMES = {
    "Detection": "provenance.detection",
    "ManifestReport": "provenance.manifests",
    "Signer": "provenance.manifests",
    "Watermark": "sampling.watermark",
    "WatermarkDetector": "provenance.detection",
    "read_key": "provenance.key_files",
    "read_manifest": "provenance.manifests",
    "write_key": "provenance.key_files",
}

__all__ = [
    "Detection",
    "ManifestReport",
    "Signer",
    "Watermark",
    "WatermarkDetector",
    "read_key",
    "read_manifest",
    "write_key",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitvar.provenance' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bitvar.{_HOMES[name]}"), name)
