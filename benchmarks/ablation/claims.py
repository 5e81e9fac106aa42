"""The claims of the published method: `{name: Claim}`.

To add one, append it to `_ALL`; what is trained, stored, compared and drawn follows from the list. Variants that
several claims share are trained once.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.ablation.hooks import Bfloat16, EveryImage, MomentWithStd, OwnImageCounted
from benchmarks.ablation.rounding import bfloat16_products
from benchmarks.ablation.variants import Baseline, BigJump, ClosedForm, Variant

REFERENCE = BigJump("reference")


@dataclass(frozen=True)
class Comparison:
    """One paired difference, the MRR of `on` minus the MRR of `against`.

    Attributes:
        words: what is compared, in plain words for tables and figures.
        on: the setting that the claim speaks for. against: what it is measured against.
    """

    words: str
    against: Variant
    on: Variant = REFERENCE


@dataclass(frozen=True)
class Claim:
    """What the method claims, and the comparisons that can tell.

    Attributes:
        name: for the command line. says: the claim.
        expected: the verdict on its own setting that the claim foresees.
        measures: what else is shown of both sides: `epochs_to_95`, `spread_within_images`, `caption_changes`.
    """

    name: str
    says: str
    comparisons: tuple[Comparison, ...]
    expected: str = "helps"
    measures: tuple[str, ...] = ()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Everything to be run, each once."""
        return tuple({v.name: v for row in self.comparisons for v in (row.on, row.against)}.values())


def _temperature(name: str, start: float, end: float) -> BigJump:
    return BigJump(name, {"temperature_start": start, "temperature_end": end})


def _captions(k: int, **more: float) -> BigJump:
    name = f"captions_{k}" + ("_no_agreement" if more else "")
    return BigJump(name, {"captions_per_image": k, **more})


SMALLEST = BigJump(
    "smallest",
    {
        "unfreeze_epoch": 0,
        "queue_schedule": (65536,),
        "temperature_start": 0.06,
        "temperature_end": 0.06,
        "moment_weight": 0.0,
        "agreement_weight": 0.0,
    },
    objective=EveryImage,
)
"""What is left without the parts that bring nothing: a Procrustes start that stays, the adapter, InfoNCE over every
image once at one temperature, and the cosine term."""
FLOAT32 = BigJump("float32", {"mixed_precision": False})
BFLOAT16 = BigJump("bfloat16", objective=Bfloat16, products=bfloat16_products)
"""One of the two trains as the reference does, which takes whatever the device has."""
ADAPTER_ALONE = BigJump("adapter_alone", {"unfreeze_epoch": 0}, start="mean")
NO_AGREEMENT = {"agreement_weight": 0.0}
PROCRUSTES = ClosedForm("closed_form_p_0", 0.0)

_ALL = (
    Claim(
        "start",
        "geometry gives an aligned starting point",
        (
            Comparison("Procrustes start, not the adapter alone", ADAPTER_ALONE),
            Comparison("Procrustes start, not a random map", BigJump("start_random", start="random")),
            Comparison("Procrustes start, not least squares", BigJump("start_least_squares", start="least_squares")),
        ),
        measures=("epochs_to_95",),
    ),
    Claim(
        "freeze",
        "adapter-only early training stabilises",
        (
            Comparison(
                "map frozen in epochs 1 and 2, not free at 0.05 of the rate", BigJump("free", {"unfreeze_epoch": 1})
            ),
            Comparison(
                "map frozen in epochs 1 and 2, not free at the full rate",
                BigJump("free_full_rate", {"unfreeze_epoch": 1, "geometry_lr_ratio": 1.0}),
            ),
        ),
    ),
    Claim(
        "tuning",
        "tiny geometry tuning adds precision",
        (
            Comparison(
                "map tuned a little from epoch 3, not frozen for good", BigJump("frozen", {"unfreeze_epoch": 0})
            ),
            Comparison(
                "map tuned a little from epoch 3, not at the full rate, never refrozen",
                BigJump("tuned_freely", {"geometry_lr_ratio": 1.0, "refreeze_drop": 1.0}),
            ),
        ),
    ),
    Claim(
        "negatives",
        "many negatives sharpen ranks",
        (
            Comparison("queue of 65,536, not the batch alone", BigJump("in_batch", {"queue_schedule": (0,)})),
            Comparison("queue of 65,536, not every image once", BigJump("every_image", objective=EveryImage)),
        ),
    ),
    Claim(
        "warmup",
        "negatives too early destabilise",
        (
            Comparison(
                "queue unused in epochs 1 and 2, not used at once",
                BigJump("no_queue_warmup", {"queue_schedule": (16384, 32768, 65536)}),
            ),
        ),
    ),
    Claim(
        "queue_schedule",
        "a queue-size schedule that grows helps",
        (
            Comparison(
                "queue grows 16k, 32k, 65k, not full size at once",
                BigJump("full_queue_at_once", {"queue_schedule": (0, 0, 65536)}),
            ),
        ),
    ),
    Claim(
        "own_image",
        "the own image among the negatives harms",
        (
            Comparison(
                "own image left out of the negatives, not counted",
                BigJump("own_image_counted", objective=OwnImageCounted),
            ),
        ),
    ),
    Claim(
        "temperature",
        "temperature decay sharpens",
        (
            Comparison("temperature 0.10 to 0.06, not fixed at 0.10", _temperature("temperature_10", 0.10, 0.10)),
            Comparison("temperature 0.10 to 0.06, not fixed at 0.06", _temperature("temperature_06", 0.06, 0.06)),
            Comparison("temperature 0.10 to 0.06, not fixed at 0.04", _temperature("temperature_04", 0.04, 0.04)),
            Comparison("temperature 0.10 to 0.06, not 0.07 to 0.04", _temperature("temperature_07_04", 0.07, 0.04)),
        ),
    ),
    Claim(
        "cosine",
        "the cosine term anchors",
        (Comparison("cosine term at 0.5, not left out", BigJump("no_cosine", {"cosine_weight": 0.0})),),
    ),
    Claim(
        "moment",
        "the moment term stabilises",
        (
            Comparison("moment term at 0.02, not left out", BigJump("no_moment", {"moment_weight": 0.0})),
            Comparison(
                "moment term of means, not of means and spreads",
                BigJump("moment_with_std", objective=MomentWithStd),
            ),
        ),
    ),
    Claim(
        "agreement",
        "agreement makes captions of one image coincide",
        (
            Comparison("agreement at 0.05, not 0; plain shuffling", BigJump("no_agreement", NO_AGREEMENT)),
            Comparison("agreement at 0.05, not 0; 2 captions an image", _captions(2, **NO_AGREEMENT), _captions(2)),
            Comparison("agreement at 0.05, not 0; 4 captions an image", _captions(4, **NO_AGREEMENT), _captions(4)),
        ),
        measures=("spread_within_images",),
    ),
    Claim(
        "all_parts",
        "all parts together are needed",
        (Comparison("the whole method, not its smallest variant", SMALLEST),),
    ),
    Claim(
        "whitening",
        "whiten, rotate, recolour helps the cosine",
        (
            Comparison("closed form: p = 0 (Procrustes), not p = 0.5", ClosedForm("closed_form_p_05", 0.5), PROCRUSTES),
            Comparison(
                "closed form: p = 0 (Procrustes), not p = 1 (least squares)",
                ClosedForm("closed_form_p_1", 1.0),
                PROCRUSTES,
            ),
        ),
    ),
    Claim(
        "precision",
        "mixed precision costs nothing",
        (Comparison("bfloat16 products, not float32", FLOAT32, BFLOAT16),),
        expected="no effect",
    ),
    Claim(
        "nonlinear",
        "geometry is blind to what is not linear",
        (
            Comparison("Procrustes alone, not MLP2 with its regression loss", Baseline("mlp2"), PROCRUSTES),
            Comparison("Procrustes alone, not the adapter alone", ADAPTER_ALONE, PROCRUSTES),
            Comparison("Procrustes alone, not BigJump", REFERENCE, PROCRUSTES),
        ),
        expected="harms",
        measures=("caption_changes",),
    ),
)

CLAIMS: dict[str, Claim] = {claim.name: claim for claim in _ALL}
