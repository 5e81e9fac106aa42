"""How translators are trained: losses, objectives, the loop, and the recipe `plus` with its search.

- `settings`: one dataclass a recipe.
- `losses`: loss terms, functions from tensors to a scalar; `infonce`: their kernel; `queue`: recent negatives;
  `same_text`: images that are no negatives of a caption.
- `objectives`: what a training minimises, made of loss terms; a new loss is a term there and a line here.
- `steps`, `loop`: one update, and the training around it; `history`: what each epoch leaves; `state`: resuming.
- `folds`, `cca_search`: cross-validation folds, and the setting of weighted CCA that they choose.
- `plus`, `plus_search`: the ensemble, and what it chooses on the folds.
"""

from helpers.training.cca_search import best_setting, validation_ranks
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
from helpers.training.plus import Choice, Curve, PlusObjective, WeightPoint, build_chosen, build_ensemble, train_plus
from helpers.training.queue import ImageQueue
from helpers.training.same_text import SameText
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
    "Objective",
    "OptimiserConfig",
    "PlusConfig",
    "PlusObjective",
    "Progress",
    "SameText",
    "Steps",
    "TrainingState",
    "WeightPoint",
    "agreement_loss",
    "bank_infonce",
    "best_setting",
    "build_chosen",
    "build_ensemble",
    "cosine_loss",
    "epoch_order",
    "fit",
    "in_batch_infonce",
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
    "translations",
    "validation_mrr",
    "validation_ranks",
]
