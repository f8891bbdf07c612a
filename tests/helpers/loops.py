"""Many cases in one test: a failure says which it was."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def where(*what: object) -> Iterator[None]:
    """Around one pass of a loop; what: as much as it takes to tell it from the others."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"where: {', '.join(map(str, what))}")
        raise
