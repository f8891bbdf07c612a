"""What every integration does alike: to replace functions of another package, and to say so.

An integration is a list of targets. Each names a function of another package, what its source was
when it was read, and the function that serves in its place. ``apply`` replaces those that are still
what was read and leaves the others as they are; its report says which, counts the calls that each
replacement has served or handed on, and undoes the whole.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from torch.compiler import is_compiling

from .sources import digest, parameter_names

REPLACED, ALREADY, SKIPPED, UNDONE = "replaced", "already", "skipped", "undone"
ABSENT = "absent"  # optional, and not in this version
INHERITED = object()


class Place(Protocol):
    """Where a function is found by those who call it."""

    def get(self) -> Any:
        """What stands there; ``INHERITED`` where the class inherits it."""

    def function(self) -> Callable[..., Any]:
        """What is called there."""

    def put(self, value: Any) -> None:
        """Set it, or take away what was set where the value is ``INHERITED``."""


class Attribute:
    """An attribute of a module or class."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def get(self) -> Any:
        return vars(self.owner).get(self.name, INHERITED)

    def function(self) -> Callable[..., Any]:
        return getattr(self.owner, self.name)

    def put(self, value: Any) -> None:
        if value is INHERITED:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, value)


@dataclass(frozen=True)
class Target:
    """A function of another package, and what serves in its place."""

    module: str
    attribute: str
    """Its place in the module, such as "Normal.rsample"."""
    parameters: str
    """The names of its parameters, as its ``def`` line has them."""
    known: str
    """Digests of its source (with ``relies_on``), of the versions for which the target is right."""
    serve: Callable[..., Any]
    """Called as the original is; returns its result, or a string: why the original is to do it."""
    relies_on: Sequence[str] = ()
    """Other functions of the module that make the original what it is."""
    optional: bool = False
    """Whether some versions that are known lack it, of which nobody need be warned."""

    @property
    def name(self) -> str:
        return f"{self.module}.{self.attribute}"

    def find(self, path: str) -> tuple[Any, str]:
        """The module or class that has an attribute, and the attribute's name there."""
        owner: Any = importlib.import_module(self.module)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        getattr(owner, name)
        return owner, name

    def place(self) -> Place:
        """Raise ImportError, AttributeError or LookupError where this version has no such place."""
        return Attribute(*self.find(self.attribute))

    def why_not(self, original: Callable[..., Any]) -> str | None:
        """Why this is not the function that was read; None where it is."""
        names = parameter_names(original)
        if names != self.parameters:
            return f"it takes ({names}), not ({self.parameters})"
        found = digest(original, *(_as_read(*self.find(path)) for path in self.relies_on))
        if found is None:
            return "its source can't be read, so that nobody knows what it computes"
        if found not in self.known.split():
            return f"its source ({found}) is none of those known ({self.known})"
        return None


def _as_read(owner: Any, name: str) -> Callable[..., Any]:
    """A function, or what stood there before it was replaced."""
    function = getattr(owner, name)
    while hasattr(function, "swap"):
        function = function.__wrapped__
    return function


@dataclass
class Swap:
    """What a replacement carries: who made it, and how often it was called."""

    consumer: str
    options: dict[str, Any]
    calls: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    sharing: list[weakref.ref[Row]] = field(default_factory=list)
    """Rows of later reports that found it in place, for as long as somebody has them."""


@dataclass
class Row:
    """A target, what became of it, and why."""

    target: Target
    status: str
    reason: str = ""
    calls: dict[str, int] = field(default_factory=dict)
    """How often it was "fused", and how often not: "fallback: ..." with the reason. In code that a
    compiler has made nobody counts; "compiled: ..." are the places in it that call."""
    _place: Place | None = None
    _before: Any = None
    _installed: Any = None

    def undo(self) -> None:
        """Put the original back, unless somebody else has replaced it since."""
        if self.status != REPLACED or self._place is None:
            return
        if self._place.get() is not self._installed:
            self.reason = "not undone: something else has been put there since"
            return
        heir = self._heir()
        if heir is None:
            self._place.put(self._before)
        else:  # another report counts on it, whose it is from now on
            heir.status, heir.reason = REPLACED, ""
            heir._place, heir._before, heir._installed = self._place, self._before, self._installed
        self.status, self.reason = UNDONE, ""

    def _heir(self) -> Row | None:
        """The row of a later report that found the same replacement in place."""
        installed = self._installed
        if isinstance(installed, staticmethod):
            installed = installed.__func__
        rows = [row() for row in installed.swap.sharing]
        return next((row for row in rows if row is not None and row.status == ALREADY), None)


class Report:
    """What became of each target; a context manager that undoes it at its end.

    ``str()`` makes a table of it, with the calls so far.
    """

    def __init__(self, consumer: str, version: str, options: dict[str, Any], rows: list[Row]):
        self.consumer, self.version, self.options, self.rows = consumer, version, options, rows

    def __getitem__(self, name: str) -> Row:
        """The row of a target, by the end of its name, such as "Normal.rsample"."""
        found = [row for row in self.rows if f".{row.target.name}".endswith(f".{name}")]
        if len(found) != 1:
            raise KeyError(f"{len(found)} targets of {self.consumer} are called {name}")
        return found[0]

    @property
    def calls(self) -> dict[str, int]:
        """The calls of all targets together: "fused", and "fallback: ..." for each reason."""
        total: defaultdict[str, int] = defaultdict(int)
        for row in self.rows:
            for what, times in row.calls.items():
                total[what] += times
        return dict(total)

    def undo(self) -> None:
        """Put back the originals of what this report has replaced and nobody else since.

        What another report has found in place meanwhile is left to that one.
        """
        for row in reversed(self.rows):
            row.undo()
            if row.status == ALREADY:
                row.status = UNDONE  # it no longer counts on the other's

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()

    def __str__(self) -> str:
        lines = [f"{self.consumer} {self.version}, {_said(self.options)}"]
        width = max((len(row.target.name) for row in self.rows), default=0)
        for row in self.rows:
            calls = [f"{times} {what}" for what, times in sorted(row.calls.items())]
            if not calls and row.status not in (SKIPPED, ABSENT):
                calls = ["no calls"]
            note = "; ".join([row.reason, *calls] if row.reason else calls)
            lines.append(f"  {row.target.name:<{width}}  {row.status:<8}  {note}")
        return "\n".join(lines)


def _said(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def installed_version(package: str) -> str:
    """Raise ModuleNotFoundError where a package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            f"{package} is not installed in this environment, so there is nothing to patch",
            name=package,
        ) from None


def apply(
    consumer: str, package: str, targets: Sequence[Target], options: dict[str, Any]
) -> Report:
    """Replace each target that is what it was when it was read. Warns of the others."""
    report = Report(consumer, installed_version(package), options, [])
    for target in targets:
        report.rows.append(_replace(target, Swap(consumer, options)))
    told = [
        f"{r.target.name}: {r.status}, {r.reason}"
        for r in report.rows
        if r.reason and r.status != ABSENT
    ]
    if told:
        warnings.warn(
            f"{len(told)} of {len(targets)} targets of {consumer} {report.version} are left as "
            "they are: " + "; ".join(told),
            stacklevel=4,
        )
    return report


def _replace(target: Target, swap: Swap) -> Row:
    try:
        place = target.place()
        original = place.function()
    except (ImportError, AttributeError, LookupError) as error:
        status = ABSENT if target.optional else SKIPPED
        return Row(target, status, f"this version has none ({error})")
    before = getattr(original, "swap", None)
    if isinstance(before, Swap):
        other = "" if before.options == swap.options else f"with {_said(before.options)}"
        row = Row(target, ALREADY, other, before.calls)
        before.sharing.append(weakref.ref(row))
        return row
    reason = target.why_not(original)
    if reason is not None:
        return Row(target, SKIPPED, reason)
    row = Row(target, REPLACED, "", swap.calls, place, place.get())
    row._installed = _in_place_of(original, target.serve, swap)
    if isinstance(row._before, staticmethod):
        row._installed = staticmethod(row._installed)
    place.put(row._installed)
    return row


# By the number of a swap. A compiler makes guards of what traced code changes or closes over: of
# counts, a graph for each call. What it sees is a number, and a function that it runs while it
# traces, once for each place in a graph.
_CALLS: list[defaultdict[str, int]] = []


def _compiled(number: int, what: str) -> int:
    _CALLS[number][f"compiled: {what}"] += 1
    return 0


# As torch.compiler.assume_constant_result marks it, which would import the compiler.
_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _in_place_of(
    original: Callable[..., Any], serve: Callable[..., Any], swap: Swap
) -> Callable[..., Any]:
    number = len(_CALLS)
    _CALLS.append(swap.calls)

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        found = serve(*args, **kwargs)
        unserved = isinstance(found, str)
        what = f"fallback: {found}" if unserved else "fused"
        if is_compiling():
            _compiled(number, what)
        else:
            _CALLS[number][what] += 1
        return original(*args, **kwargs) if unserved else found

    replacement.swap = swap  # type: ignore[attr-defined]
    return replacement
