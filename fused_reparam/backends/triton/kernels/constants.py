"""What the kernels of an element-wise family take of its constants."""

from __future__ import annotations

import math
from typing import NamedTuple


class Constants(NamedTuple):
    """See `families`."""

    n: tuple[float, ...]
    """n2 .. n6, as many as there are: what the family's formulas read."""
    floor: float = -math.inf
    """The least term; -inf: any."""
    far: bool = False
    """Whether a prior of numbers is so wide or so narrow that a ratio to it takes logarithms."""
