"""Words for what a user gave and for what was probably meant: a right call needs none of it."""

from __future__ import annotations

import difflib
import inspect
import numbers
from collections.abc import Callable, Iterable
from typing import Any, Never, TypeVar

from torch import Tensor

from .noise_options import DEFAULTS, NoiseOptions

F = TypeVar("F", bound=Callable[..., Any])

# Names that other libraries give to the same thing, without underscores; the first is not special.
_SYNONYMS = (
    ("mu", "mean", "loc", "means", "location", "zmean"),
    ("std", "sigma", "scale", "sd", "stddev", "stdev"),
    ("logvar", "logvariance", "logsigma2", "logsigmasq", "zlogvar"),
    ("logstd", "logsigma", "logscale", "logstddev"),
    ("var", "variance", "sigma2"),
    ("tau", "temperature", "temp"),
    ("hard", "straightthrough", "discrete"),
    ("prior", "priormean", "priormu", "priorstd", "priorsigma", "priorlogvar", "pz"),
    ("numsamples", "sampleshape", "nsamples", "samples", "samplesize", "k"),
    ("key", "seed"),
    ("eps", "epsilon", "noise"),
    ("dim", "axis"),
    ("low", "min", "minimum", "lower"),
    ("high", "max", "maximum", "upper"),
    ("df", "dof", "nu"),
    ("base", "distribution", "family"),
    ("beta", "klweight", "weight"),
    ("freebits", "klfloor", "minkl"),
    ("logits", "logit"),
    ("rate", "lambda", "lambd", "lam", "intensity"),
    ("concentration", "alpha", "shape", "shapeparameter", "tailindex"),
    ("batchmean", "batch", "meanbatch"),
    ("none", "element", "elementwise"),
)


def described(value: object) -> str:
    """A short description: a tensor by dtype and shape, never by its numbers."""
    if isinstance(value, Tensor):
        return _described_tensor(value)
    kind = type(value).__name__
    if isinstance(value, (tuple, list)):
        parts = [_part(v) for v in value[:3]] + ["..."] * (len(value) > 3)
        return f"({', '.join(parts)}) of type {kind}"
    if _has_short_repr(value):
        return f"{_part(value)} of type {kind}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a {type(value).__module__} {kind} of shape {value.shape}, {value.dtype}"
    return f"an object of type {kind}"


def _part(value: object) -> str:
    """One of several: without its type where that shows."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if _has_short_repr(value):
        said = repr(value)
        return said if len(said) <= 40 else said[:37] + "..."
    return described(value)


def _has_short_repr(value: object) -> bool:
    return value is None or isinstance(value, (numbers.Number, str, bytes))


def _described_tensor(t: Tensor) -> str:
    # Of a nested tensor of the strided layout nobody may ask the shape.
    if t.is_nested:
        return f"a nested tensor of {t.size(0)} parts, {t.dtype}"
    said = f"a tensor of shape {tuple(t.shape)}, {t.dtype}"
    return said + (" that requires grad" if t.requires_grad and not t.dim() else "")


def not_a_tensor(value: object) -> str:
    """What was given in place of a tensor, and how to make one of it."""
    said = described(value)
    if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value):
        return f"{said}; did you mean to unpack it, as in latent(*encode(x))?"
    if hasattr(value, "__array__") or (isinstance(value, (tuple, list)) and value):
        return f"{said}; torch.as_tensor makes a tensor of numbers"
    return said


def suggestion(word: object, choices: Iterable[str]) -> str:
    """`` (did you mean ...?)``, or nothing."""
    if not isinstance(word, str):
        return ""
    bare = {_bare(choice): choice for choice in choices}
    given = _bare(word)
    found = [bare[given]] if given in bare else []
    for group in _SYNONYMS:
        if given in group and not found:
            found = [choice for name, choice in bare.items() if name in group]
    found = found or [bare[name] for name in difflib.get_close_matches(given, bare, 1, 0.7)]
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""


def _bare(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "").replace(" ", "")


def names_mistakes(function: F) -> F:
    """Let a function with ``**mistaken`` look as if it had none; it raises ``unknown`` of them.

    One with ``**noise`` looks as if it had the keywords of ``NoiseOptions``.

    A wrapper that catches Python's own TypeError would take 2 % of a small call, and be in the way
    of compilers. So the function itself takes unknown keywords, and what it requires may be
    missing, for Python would complain of that first: then it is None, which the checks refuse.
    """
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    noise = signature.parameters.get("noise")
    if noise is not None and noise.kind is noise.VAR_KEYWORD:
        named += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=DEFAULTS[name],
                annotation=kind.__forward_arg__,  # type: ignore[attr-defined]
            )
            for name, kind in NoiseOptions.__annotations__.items()
        ]
    function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    positional = [p for p in named if p.kind is p.POSITIONAL_OR_KEYWORD]
    if positional[0].name != "self":
        function.__defaults__ = tuple(
            None if p.default is p.empty else p.default for p in positional
        )
        function.__prepare_scriptable__ = not_scriptable  # type: ignore[attr-defined]
    return function


def not_scriptable(_: object = None) -> Never:
    """What ``torch.jit.script`` asks a function or a module before it compiles it."""
    raise RuntimeError(
        "torch.jit.script can't compile the functions and modules of fused_reparam: use "
        "torch.jit.trace, torch.export or torch.compile"
    )


def unknown(function: Callable[..., Any], mistaken: Iterable[str]) -> TypeError:
    """The error for keywords that a function or a class does not take."""
    name, takes = function.__name__, list(inspect.signature(function).parameters)
    said = ", ".join(f"{word!r}{suggestion(word, takes)}" for word in mistaken)
    return TypeError(
        f"{name}() got an unexpected keyword argument {said}; it takes {', '.join(takes)}"
    )
