"""Whole training steps of models in which an op sits: forward, loss, backward, optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from bench.steps.models import models

if TYPE_CHECKING:
    from bench.measure import Result, Settings, Tick
    from bench.timing import Clock

TRAINING_STEP = "training_step"
DTYPE = "float32"


def sizes(quick: bool) -> tuple[str, ...]:
    """What stands for sizes in the rows: the models' names."""
    return tuple(model.name for model in models(quick))


def measure_steps(
    settings: Settings, clock: Clock, limit: dict[str, Any], tick: Tick
) -> Iterator[Result]:
    """Models with every variant: after each one what is there by then, as a JSON-ready dict."""
    from bench.measure import chosen, measure_case, result
    from bench.steps.case import StepCase, step_variants

    device = torch.device(settings.device)
    entries = [model for model in models(settings.quick) if model.name in settings.sizes]
    rows = []
    for index, model in enumerate(entries):

        def progress(what: str, done: float, index: int = index, name: str = model.name) -> None:
            tick(f"{name}: {what}", (index + done) / len(entries))

        case = StepCase(model, device)
        variants, missing = step_variants(case)
        wanted = chosen(variants, settings)
        rows += measure_case(case, settings, wanted, clock, limit, progress)
        yield result(settings, limit, chosen(missing, settings), rows)
