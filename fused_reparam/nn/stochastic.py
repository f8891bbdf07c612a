"""What all modules of this package have in common: when they draw, and how they are printed."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..core.mistakes import described, not_scriptable

__all__ = ["Stochastic", "changed", "sampling"]

_COUNTING = threading.Lock()
_PACKAGE = __name__.partition(".")[0]


class _Asked:
    """How many ``sampling`` contexts ask a module to draw. A copy of the module has none."""

    def __init__(self) -> None:
        self.times = 0
        self.any = False  # a compiled graph is one for each of its two values

    def __reduce__(self) -> tuple[Any, ...]:
        return _Asked, ()

    def add(self, times: int) -> None:
        # A compiler takes no locks, and runs what it traces in one thread.
        with nullcontext() if torch.compiler.is_compiling() else _COUNTING:
            self.times += times
            self.any = self.times > 0


class Stochastic(nn.Module):
    """A module that draws in training, and in eval where :func:`sampling` asks it to."""

    __prepare_scriptable__ = not_scriptable

    def __init__(self) -> None:
        super().__init__()
        self._asks_nothing()

    def _asks_nothing(self) -> None:
        self._asked = _Asked()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a pickle, perhaps of older code: an option that is new has its default."""
        super().__setstate__({"_asked": _Asked(), **state})
        for kind in type(self).__mro__:
            if not issubclass(kind, Stochastic) or not kind.__module__.startswith(_PACKAGE):
                continue
            for name, default in _defaults(kind.__init__).items():
                if isinstance(getattr(kind, name, None), property):
                    if name in vars(self):  # it was an attribute
                        setattr(self, name, vars(self).pop(name))
                elif not any(
                    name in held for held in (vars(self), self._parameters, self._buffers)
                ):
                    setattr(self, name, default)

    @property
    def draws(self) -> bool:
        """Whether a call draws now: in ``train()``, and within ``fused_reparam.sampling``."""
        return self.training or self._asked.any


@contextmanager
def sampling(*models: nn.Module) -> Iterator[None]:
    r"""A context in which this package's modules draw although the model is in ``eval()``.

    All else stays in ``eval()``: dropout is off, batch norm takes its running statistics. So one
    gets samples of a trained model's predictions, and an ELBO of held-out data. In ``eval()`` alone
    a latent is its mean and a Bayesian layer's weights are their means, and a loss of these is no
    ELBO.

    The modules draw whatever ``train()`` and ``eval()`` say while the context lasts, and then are
    as they were. Contexts nest. As ``train()`` and ``eval()`` do, it holds for the modules
    themselves, in all threads: they draw until the last context that asked them to is left. Copies
    and pickles made within it do not draw. A compiled model has one more graph for it.

    Args:
        \*models: one or more models that hold modules of this package, also compiled ones.

    Raises:
        TypeError: something else than a ``torch.nn.Module``, or nothing.
        ValueError: a model holds no module that draws.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014 (the ELBO is of samples);
    Blundell et al., "Weight uncertainty in neural networks", 2015 (predictions are averages).

    Example:
        >>> import torch
        >>> import fused_reparam
        >>> model = torch.nn.Sequential(fused_reparam.BayesianLinear(4, 1), torch.nn.Dropout())
        >>> x = torch.randn(8, 4)
        >>> with torch.no_grad(), fused_reparam.sampling(model.eval()):
        ...     predictions = torch.stack([model(x) for _ in range(10)])
        >>> bool((predictions.std(0) > 0).all()), torch.equal(model(x), model(x))
        (True, True)
    """
    if not models:
        raise TypeError("sampling takes the models whose modules are to draw: sampling(model)")
    found: list[Stochastic] = []
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(f"sampling takes torch.nn.Modules, got {described(model)}")
        modules = [m for m in model.modules() if isinstance(m, Stochastic)]
        if not modules:
            raise ValueError(
                "sampling lets modules of fused_reparam draw (FusedGaussianLatent, BayesianLinear "
                f"and others), and this {type(model).__name__} has none"
            )
        found += modules
    for module in found:
        module._asked.add(1)
    try:
        yield
    finally:
        for module in found:
            module._asked.add(-1)


def _defaults(init: Callable[..., None]) -> dict[str, Any]:
    """The arguments of a layer that have defaults, each an attribute of the same name."""
    arguments = inspect.signature(init).parameters
    return {
        name: argument.default
        for name, argument in arguments.items()
        if argument.default is not argument.empty and name not in ("device", "dtype")
    }


def changed(init: Callable[..., None], **found: Callable[[Any], Any]) -> Callable[[Any], str]:
    """The ``extra_repr`` of a class with this ``__init__``: what differs from its defaults.

    Each argument is an attribute of the same name, unless ``found`` has a function that finds it;
    required ones are always shown.
    """
    arguments = [
        (name, argument.default)
        for name, argument in inspect.signature(init).parameters.items()
        if name not in ("self", "device", "dtype")
    ]

    def extra_repr(self: Any) -> str:
        shown = []
        for name, default in arguments:
            value = found[name](self) if name in found else getattr(self, name)
            if not _is(value, default):
                shown.append(f"{name}={_printed(value)}")
        return ", ".join(shown)

    return extra_repr


def _printed(value: Any) -> str:
    """Tensors without their numbers, for which one would wait."""
    if isinstance(value, tuple) and len(value) > 1:
        return f"({', '.join(map(_printed, value))})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_printed(v)}" for k, v in value.items()) + "}"
    return described(value) if isinstance(value, Tensor) else repr(value)


def _is(value: Any, default: Any) -> bool:
    """Whether an attribute is a default, perhaps of one number for each dim."""
    if isinstance(value, Tensor) or (value is None) is not (default is None):
        return False
    if isinstance(value, tuple) and not isinstance(default, tuple):
        return all(one == default for one in value)
    return bool(value == default)
