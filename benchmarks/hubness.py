"""Search corrected for hubs: gallery images that are near to every caption lose what a bank of captions gives them.

With S = cos(queries, gallery), T = cos(bank, gallery) and f = 0, repeated twice,

    f_j <- f_j + log sum_b softmax_j(beta T_b - f),    corrected score = beta S - f:

steps of Sinkhorn's balancing (1967) of the bank against the gallery. The inverted softmax over a bank of queries (Smith
et al., 2017; Bogolin et al., 2022) is one step without the softmax. The bank holds training captions only.
"""

from __future__ import annotations

import numpy as np
import torch

from helpers import metrics

BETAS = (10.0, 20.0, 30.0, 40.0, 60.0)
BANK_ROWS = 12_000
STEPS = 2
BLOCK = 2048
"""Bank rows scored at a time, so that memory does not depend on the bank."""


def bank_rows(n_captions: int, seed: int) -> np.ndarray:
    """Ascending rows of the bank: a seeded choice of at most `BANK_ROWS` of the training captions."""
    if n_captions <= BANK_ROWS:
        return np.arange(n_captions)
    return np.sort(np.random.default_rng(seed).choice(n_captions, BANK_ROWS, replace=False))


def correction(bank: torch.Tensor, gallery: torch.Tensor, beta: float) -> torch.Tensor:
    """f (G,) of translated captions `bank` (K, d) and images `gallery` (G, d), any lengths."""
    bank, gallery = metrics.normalise(bank), metrics.normalise(gallery)
    f = torch.zeros(len(gallery), device=gallery.device)
    for _ in range(STEPS):
        share = torch.full_like(f, -torch.inf)  # log of what the bank gives each image
        for block in bank.split(BLOCK):
            logits = beta * (block @ gallery.T) - f  # (k, G)
            share = torch.logaddexp(share, logits.log_softmax(1).logsumexp(0))
        f = f + share
    # Copies of an image have one value: their products may round differently, and must still tie.
    _, first, group = np.unique(metrics.groups_of_copies(gallery), return_index=True, return_inverse=True)
    return f[torch.from_numpy(first[group]).to(f.device)]


def ranks(
    queries: torch.Tensor, bank: torch.Tensor, gallery: torch.Tensor, targets: torch.Tensor, beta: float
) -> np.ndarray:
    """(Q,) ranks by the corrected score.

    One more dimension carries the correction, (z, 1) . (y, -f / beta), so that ties and blocks are `metrics.ranks`'s.
    """
    f = correction(bank, gallery, beta) / beta
    z = torch.cat([metrics.normalise(queries), torch.ones(len(queries), 1, device=queries.device)], 1)  # (Q, d + 1)
    y = torch.cat([metrics.normalise(gallery), -f[:, None]], 1)  # (G, d + 1)
    return metrics.ranks(z, y, targets, cosine=False)


def choose_beta(
    queries: torch.Tensor, bank: torch.Tensor, gallery: torch.Tensor, targets: torch.Tensor
) -> dict[str, object]:
    """The beta of the highest MRR, with the MRR of each; to be called with an inner validation side only."""
    mrr = {beta: float(np.mean(1 / ranks(queries, bank, gallery, targets, beta))) for beta in BETAS}
    return {"beta": max(mrr, key=mrr.get), "inner_mrr": {str(beta): value for beta, value in mrr.items()}}
