"""The methods of the accuracy comparison, in the order of their rows: `{name: Method}`.

To add one, append a `Trained` (settings, builder of model and objective) or a `ClosedForm` (solver, grid) to `_ALL`;
what is computed, stored, searched and drawn follows from the list.
"""

from __future__ import annotations

from benchmarks.baselines import networks
from benchmarks.baselines.closed import EPS, ClosedForm, grid, solve_asif, solve_cca, solve_power
from benchmarks.baselines.kernel import solve_kernel_ridge
from benchmarks.baselines.method import Method
from benchmarks.baselines.networks import QueueConfig, SymmetricConfig, TripletConfig
from benchmarks.baselines.ours import KernelCCA, Plus
from benchmarks.baselines.trained import Trained
from helpers.models import cca
from helpers.training.objectives import BaselineConfig, BigJumpConfig
from helpers.training.settings import PlusConfig

_ALL: tuple[Method, ...] = (
    ClosedForm("least_squares", solve_power, grid(eps=(EPS,), power=(1.0,))),
    ClosedForm("ridge", solve_power, grid(eps=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), power=(1.0,))),
    ClosedForm("procrustes", solve_power, grid(eps=(EPS,), power=(0.0,))),
    ClosedForm("cca", solve_cca, cca.GRID),
    ClosedForm(
        "kernel_ridge",
        solve_kernel_ridge,
        grid(
            landmarks=(4000,),
            gamma=(0.5, 1.0, 2.0),
            ridge=(1e-5, 1e-4, 1e-3, 1e-2),
            whitening=(0.0, 0.5, 1.0),
        ),
        seeded=True,
    ),
    ClosedForm("asif", solve_asif, grid(neighbours=(10, 30, 100, 300), temperature=(0.05, 0.1, 0.2))),
    Trained("linear", BaselineConfig(), networks.baseline("linear")),
    Trained("mlp1", BaselineConfig(), networks.baseline("mlp1")),
    Trained("mlp2", BaselineConfig(), networks.baseline("mlp2")),
    Trained(
        "vse_mlp",
        TripletConfig(epochs=24, batch_size=128, learning_rate=2e-4, clip_norm=2.0),
        networks.build_triplet,
        schedule=networks.step_decay,
    ),
    Trained(
        "residual_infonce",
        SymmetricConfig(epochs=100, batch_size=4096, weight_decay=0.01, clip_norm=1.0, hidden=3072),
        networks.build_residual,
    ),
    Trained(
        "queue_infonce",
        QueueConfig(epochs=30, batch_size=512),
        networks.build_queue,
        schedule=networks.constant,
    ),
    Trained("bigjump", BigJumpConfig(), networks.build_bigjump, rate_factors=(1.0,)),
    KernelCCA("kernel"),
    Plus("bigjump_plus", PlusConfig()),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
