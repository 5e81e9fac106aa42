"""Translators between two embedding spaces, untrained or in closed form, and how they are stored.

- `geometry`: closed forms from covariances (whitened Procrustes, least squares and the family between), spectra.
- `cca`: weighted canonical correlation analysis; `kernel`: the same on a kernel of the captions.
- `networks`: MLPs, the affine map, BigJump's affine map with an adapter, the ensemble.
- `build`: the rows of the leaderboard, `build_model` and `predict`; a new model is a row there.
- `storage`: models of a run on disk.
"""

from helpers.models.build import BASELINES, MODEL_ROWS, ROWS, Row, Shape, build_model, predict
from helpers.models.cca import Setting
from helpers.models.geometry import (
    AffineMap,
    CrossSpace,
    GeometryConfig,
    PairStatistics,
    Whitening,
    covariance,
    effective_rank,
    fit_cross_space,
    fit_cross_spaces,
    mean_share,
    pair_statistics,
    principal_basis,
    spectrum,
    whitening,
)
from helpers.models.kernel import KernelMap
from helpers.models.networks import (
    MLP,
    Blend,
    EnsembleMLP,
    GeomLinear,
    GeomWithAdapter,
    Standardise,
    Whiten,
    fit_standardisation,
)
from helpers.models.storage import load_metadata, load_model, model_path, save_model, weights_digest

__all__ = [
    "BASELINES",
    "MLP",
    "MODEL_ROWS",
    "ROWS",
    "AffineMap",
    "Blend",
    "CrossSpace",
    "EnsembleMLP",
    "GeomLinear",
    "GeomWithAdapter",
    "GeometryConfig",
    "KernelMap",
    "PairStatistics",
    "Row",
    "Setting",
    "Shape",
    "Standardise",
    "Whiten",
    "Whitening",
    "build_model",
    "covariance",
    "effective_rank",
    "fit_cross_space",
    "fit_cross_spaces",
    "fit_standardisation",
    "load_metadata",
    "load_model",
    "mean_share",
    "model_path",
    "pair_statistics",
    "predict",
    "principal_basis",
    "save_model",
    "spectrum",
    "weights_digest",
    "whitening",
]
