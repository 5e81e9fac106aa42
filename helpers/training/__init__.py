"""How translators are trained: losses, objectives, the loop, and the recipe `plus` with its search.

- `settings`: one dataclass a recipe.
- `losses`: loss terms, functions from tensors to a scalar; `infonce`: their kernel; `queue`: recent negatives;
  `same_text`: images that are no negatives of a caption.
- `objectives`: what a training minimises, made of loss terms; a new loss is a term there and a line here.
- `steps`, `loop`: one update, and the training around it; `history`: what each epoch leaves; `state`: resuming.
- `folds`, `closed_forms`: cross-validation folds, and the settings of weighted CCA and of the kernel map that they
  choose; `selection`: the weights of several translators in a mean.
- `plus`, `plus_objective`: the ensemble, and what its networks are trained on; `plus_choice`, `plus_search`: what is
  chosen on the folds, and how.
"""

from helpers.training.closed_forms import best_cca, best_kernel, fit_cca, fit_kernel, validation_ranks
from helpers.training.folds import make_fold, make_folds
from helpers.training.history import EpochEntry
from helpers.training.loop import (
    epoch_order,
    fit,
    learning_rate_factor,
    make_optimiser,
    train_baseline,
    train_bigjump,
    translations,
    validation_mrr,
)
from helpers.training.losses import (
    agreement_loss,
    bank_infonce,
    cosine_loss,
    in_batch_infonce,
    moment_loss,
    mse_loss,
    multi_positive_infonce,
)
from helpers.training.objectives import (
    BaselineConfig,
    BigJumpConfig,
    BigJumpObjective,
    CombinedObjective,
    Objective,
    temperature_at,
)
from helpers.training.plus import build_chosen, build_networks, train_plus, trained_part
from helpers.training.plus_choice import Choice, Curve, Networks, kind_name
from helpers.training.plus_objective import PlusObjective
from helpers.training.queue import ImageQueue
from helpers.training.same_text import SameText
from helpers.training.selection import Step, choose_weights
from helpers.training.settings import OptimiserConfig, PlusConfig
from helpers.training.state import Progress, TrainingState
from helpers.training.steps import Steps, train_step

__all__ = [
    "BaselineConfig",
    "BigJumpConfig",
    "BigJumpObjective",
    "Choice",
    "CombinedObjective",
    "Curve",
    "EpochEntry",
    "ImageQueue",
    "Networks",
    "Objective",
    "OptimiserConfig",
    "PlusConfig",
    "PlusObjective",
    "Progress",
    "SameText",
    "Step",
    "Steps",
    "TrainingState",
    "agreement_loss",
    "bank_infonce",
    "best_cca",
    "best_kernel",
    "build_chosen",
    "build_networks",
    "choose_weights",
    "cosine_loss",
    "epoch_order",
    "fit",
    "fit_cca",
    "fit_kernel",
    "in_batch_infonce",
    "kind_name",
    "learning_rate_factor",
    "make_fold",
    "make_folds",
    "make_optimiser",
    "moment_loss",
    "mse_loss",
    "multi_positive_infonce",
    "temperature_at",
    "train_baseline",
    "train_bigjump",
    "train_plus",
    "train_step",
    "trained_part",
    "translations",
    "validation_mrr",
    "validation_ranks",
]
