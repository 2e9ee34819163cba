"""How well the edges of an image agree with a map. Knows no models."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from bitvar.control.maps import thicken


class Agreement(NamedTuple):
    """Agreement of edges, each value between 0 and 1, one per image.

    Attributes:
        precision: Share of the image's edges that lie on the map's, within the tolerance.
        recall: Share of the map's edges that the image has, within the tolerance.
        f1: Harmonic mean of the two.
    """

    precision: Float[np.ndarray, " b"]
    recall: Float[np.ndarray, " b"]
    f1: Float[np.ndarray, " b"]


def edge_agreement(
    edges: Float32[np.ndarray, "b H W"], maps: Float32[np.ndarray, "b H W"], *, tolerance: int = 1
) -> Agreement:
    """Compare edges one pixel wide.

    Args:
        edges: Edges of images, as `maps.edge_maps` finds them.
        maps: Edges that they should have.
        tolerance: Distance in pixels along rows and columns within which two edges count as the same.
    """
    precision, recall = _share_on(edges, maps, tolerance), _share_on(maps, edges, tolerance)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return Agreement(precision, recall, f1)


def _share_on(
    first: Float32[np.ndarray, "b H W"], second: Float32[np.ndarray, "b H W"], tolerance: int
) -> Float[np.ndarray, " b"]:
    """Compute the share of the first edges that are near the second; 0 without any."""
    near = second
    for _ in range(tolerance):
        near = thicken(near)
    count = first.sum((1, 2))
    hits = (first * near).sum((1, 2))
    return np.divide(hits, count, out=np.zeros_like(count), where=count > 0)
