"""Updates of a model, one after the other; on a CUDA device replayed as a graph.

A step consists of some three hundred kernels. Launching them takes the host several times as long as a GPU needs to
compute them, so that the GPU would wait most of the time; a graph launches them all at once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Generic

import torch
from torch import nn

from helpers.system import processes
from helpers.system.devices import autocast
from helpers.training.objectives import Model, Objective
from helpers.training.settings import OptimiserConfig

LEAST_UPDATES = 4
"""Of an epoch for which a graph is recorded; recording takes the host about as long as an update without it."""


def train_step(
    model: Model, objective: Objective[OptimiserConfig, Model], optimiser: torch.optim.Optimizer, rows: torch.Tensor
) -> dict[str, torch.Tensor]:
    """One update on the captions `rows` (B,), in several processes on those of all of them.

    Returns:
        The loss and its weighted terms, detached, on the device.
    """
    data, of_all = objective.data, rows
    rows = data.own(of_all)
    positive = data.positive[rows]  # (B,)
    with autocast(data.device, objective.dtype):
        prediction = objective.predict(model, rows)
    terms = objective.terms(prediction, positive, rows)
    loss = torch.as_tensor(sum(terms.values()))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    processes.total_gradients(model.parameters())
    nn.utils.clip_grad_norm_(model.parameters(), objective.settings.clip_norm)
    optimiser.step()
    objective.end_step(data.positive_of_all[of_all])
    return {"loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}}


class Steps(Generic[Model]):
    """The updates of one epoch, and the sums of what they report.

    The first is computed as `train_step` has it: what is made once, such as the moments of a parameter that has just
    been unfrozen, must not be part of what is repeated. Then a graph is recorded, which holds what stands still during
    an epoch, such as the temperature, and serves every batch of the same size.

    Args:
        model, objective, optimiser: as `train_step` takes them.
        expected: updates that will follow.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective[OptimiserConfig, Model],
        optimiser: torch.optim.Optimizer,
        expected: int,
    ) -> None:
        self._parts = (model, objective, optimiser)
        # Several processes deal each batch in other numbers, and a graph's shapes stand still.
        capturable = objective.data.device.type == "cuda" and objective.capturable and processes.size() == 1
        self._worth = capturable and expected >= LEAST_UPDATES
        self._graph: _Graph | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._captions = 0

    def __call__(self, rows: torch.Tensor) -> None:
        """One update on the captions `rows` (B,)."""
        self._captions += len(rows)
        if self._graph is not None and len(rows) == len(self._graph.rows):
            self._graph.replay(rows)
            return
        for name, value in train_step(*self._parts, rows).items():
            self._sums.setdefault(name, torch.zeros_like(value)).add_(value, alpha=len(rows))
        if self._worth and self._graph is None:
            self._graph = _Graph(*self._parts, rows, self._sums)

    def means(self) -> dict[str, float]:
        """What the steps reported, averaged over captions; between recording and this the host waits for nothing."""
        return {name: float(value) / self._captions for name, value in self._sums.items()}


class _Graph:
    """An update recorded, to be replayed with other rows and other learning rates.

    Recording computes nothing. Every tensor that changes between steps is changed in place, on the device.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective[OptimiserConfig, Model],
        optimiser: torch.optim.Optimizer,
        rows: torch.Tensor,
        sums: dict[str, torch.Tensor],
    ) -> None:
        self.rows, self._optimiser = rows.clone(), optimiser
        self._rates = torch.empty(len(optimiser.param_groups), device=rows.device).unbind()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as a notebook's, may go on using the device meanwhile.
        stream = _recording_stream(rows.device)
        recording = torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.device(rows.device), recording, _with_rates(optimiser, self._rates):
            for name, value in train_step(model, objective, optimiser, self.rows).items():
                sums[name].add_(value, alpha=len(rows))

    def replay(self, rows: torch.Tensor) -> None:
        self.rows.copy_(rows)
        for rate, group in zip(self._rates, self._optimiser.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._graph.replay()


@functools.cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream of that very device, which need not be the first; one for all, since cuBLAS keeps memory for each."""
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def _with_rates(optimiser: torch.optim.Optimizer, rates: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within it the optimiser reads the learning rate of each group from `rates` on the device, as a graph must.

    Outside they are numbers, which schedules, checkpoints and the history deal with.
    """
    groups = optimiser.param_groups
    before = [(group["lr"], group["capturable"]) for group in groups]
    for rate, group in zip(rates, groups, strict=True):
        group["lr"], group["capturable"] = rate, True
    try:
        yield
    finally:
        for group, (rate, capturable) in zip(groups, before, strict=True):
            group["lr"], group["capturable"] = rate, capturable
