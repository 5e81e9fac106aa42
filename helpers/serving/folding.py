"""Hubness reduction folded into the vectors of a gallery, as one more coordinate.

A picture g attracts more captions than its share by its popularity p (see `helpers.evaluation.hubness`), and its
corrected score for a query q is q . g - p. Stored as [g, -p] and asked with [q, 1], that is one inner product, which
any vector database computes; asked with [q, 0], it is the cosine.
"""

from __future__ import annotations

import numpy as np


def folded(vectors: np.ndarray, last: np.ndarray | np.float32) -> np.ndarray:
    """Vectors (N, d) or (d,) with one more coordinate: (N, d + 1) or (d + 1,) float32."""
    out = np.empty((*vectors.shape[:-1], vectors.shape[-1] + 1), dtype=np.float32)
    out[..., :-1], out[..., -1] = vectors, last
    return out
