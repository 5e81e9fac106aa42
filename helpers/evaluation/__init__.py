"""How good a translator is and what it costs: ranks, intervals, hubness reduction, the leaderboard.

- `metrics`: ranks in both directions, MRR and what else is computed from them, intervals, the challenge's own protocol.
- `hubness`: hubness reduction by Sinkhorn normalisation over a query bank.
- `dot_product`: the vector to subtract where images are scored by dot product at their own length.
- `cost`: parameters, memory, latency.
- `leaderboard`: every model under one protocol, as rows and as text.
- `settings`: `EvaluationConfig`.
"""

from helpers.evaluation.cost import count_parameters, megabytes, milliseconds_per_query
from helpers.evaluation.hubness import attention, corrected_ranks, inverse_temperature
from helpers.evaluation.leaderboard import (
    ACCURACY_COLUMNS,
    CHALLENGE_COLUMNS,
    COST_COLUMNS,
    DIFFERENCE_COLUMNS,
    HUBNESS_COLUMNS,
    DifferenceRow,
    Judgement,
    LeaderboardRow,
    captions_by_rank,
    chosen_on_test,
    differences_to_best,
    format_table,
    judge,
    least_gain,
    measure_cost,
)
from helpers.evaluation.metrics import (
    Accuracy,
    Difference,
    bootstrap_interval,
    challenge_mrr,
    chance_image_to_text,
    chance_ranks,
    image_to_text_ranks,
    mean_by_image,
    paired_difference,
    ranks,
    summarise,
)
from helpers.evaluation.settings import EvaluationConfig

__all__ = [
    "ACCURACY_COLUMNS",
    "CHALLENGE_COLUMNS",
    "COST_COLUMNS",
    "DIFFERENCE_COLUMNS",
    "HUBNESS_COLUMNS",
    "Accuracy",
    "Difference",
    "DifferenceRow",
    "EvaluationConfig",
    "Judgement",
    "LeaderboardRow",
    "attention",
    "bootstrap_interval",
    "captions_by_rank",
    "challenge_mrr",
    "chance_image_to_text",
    "chance_ranks",
    "chosen_on_test",
    "corrected_ranks",
    "count_parameters",
    "differences_to_best",
    "format_table",
    "image_to_text_ranks",
    "inverse_temperature",
    "judge",
    "least_gain",
    "mean_by_image",
    "measure_cost",
    "megabytes",
    "milliseconds_per_query",
    "paired_difference",
    "ranks",
    "summarise",
]
