"""The methods of the accuracy comparison, in the order of their rows: `{name: Method}`.

To add one, append a `Trained` (settings, builder of model and objective) or a `ClosedForm` (solver, grid) to `_ALL`;
what is computed, stored, searched and drawn follows from the list. Those whose `Fitted` has a `gallery` are
two-sided: they stand last, and the table keeps them apart.
"""

from __future__ import annotations

from benchmarks.baselines import canonical, fusemix, heads, networks, residual, sail, structure
from benchmarks.baselines.closed import EPS, ClosedForm, grid, solve_asif, solve_cca, solve_power
from benchmarks.baselines.kernel import solve_kernel_ridge
from benchmarks.baselines.method import Method
from benchmarks.baselines.networks import QueueConfig, TripletConfig
from benchmarks.baselines.ours import KernelCCA, Plus
from benchmarks.baselines.trained import Trained
from helpers.models import cca
from helpers.training.objectives import BaselineConfig, BigJumpConfig
from helpers.training.settings import PlusConfig

SAIL = sail.SailConfig(epochs=100, batch_size=1024)
SAIL_RATES = (3.0, 10.0, 30.0)
"""Above the published one: a thousandth of the data makes a thousandth of the steps, and Lion's are of one size."""
FUSEMIX = fusemix.FuseMixConfig(epochs=100, batch_size=2048)
FUSEMIX_RATES = (0.3, 1.0)

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
    ClosedForm("csa", canonical.solve_csa, canonical.GRID),
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
        "residual_300",
        residual.SymmetricConfig(epochs=300, batch_size=4096),
        residual.build_residual,
        schedule=networks.constant,
    ),
    Trained(
        "queue_infonce",
        QueueConfig(epochs=30, batch_size=512),
        networks.build_queue,
        schedule=networks.constant,
    ),
    Trained(
        "structure",
        structure.StructureConfig(epochs=100, batch_size=1024),
        structure.build_structure,
        rate_factors=(1.0,),
        variants=grid(hidden=(0, 2048), structure_weight=(1.0, 10.0), temperature=(0.02, 0.05)),
    ),
    Trained("sail", SAIL, sail.build_sail, SAIL_RATES, optimiser=sail.lion),
    Trained("fusemix", FUSEMIX, fusemix.build_fusemix, FUSEMIX_RATES, optimiser=heads.adamw),
    Trained("bigjump", BigJumpConfig(), networks.build_bigjump, rate_factors=(1.0,)),
    KernelCCA("kernel"),
    Plus("bigjump_plus", PlusConfig()),
    ClosedForm("csa_two_sided", canonical.solve_csa_two_sided, canonical.GRID),
    Trained("sail_two_sided", SAIL, sail.build_sail_two_sided, SAIL_RATES, optimiser=sail.lion),
    Trained("fusemix_two_sided", FUSEMIX, fusemix.build_fusemix_two_sided, FUSEMIX_RATES, optimiser=heads.adamw),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
