"""Triton's interpreter, made faster for the tests."""

from __future__ import annotations


def patch_once_a_launch() -> None:
    """Replace the language's functions once in each launch, not in each call of a device function.

    Triton searches its whole language for what to replace whenever one jitted function calls
    another, and finds nothing that the launch has not replaced already: half of a test's time.
    """
    try:
        import triton.language as tl
        from triton.runtime import interpreter

        scope_type = interpreter._LangPatchScope
    except (ImportError, AttributeError):  # no Triton, or one that works in another way
        return
    patch_lang = interpreter._patch_lang
    scope, replaced = scope_type(), set()

    def patch(fn):
        nonlocal scope
        languages = {name for name, one in (("tl", tl), ("core", tl.core))
                     if any(value is one for value in fn.__globals__.values())}  # fmt: skip
        # The end of a launch empties its scope.
        if not scope._changes:
            replaced.clear()
        elif languages <= replaced:
            return scope
        made = patch_lang(fn)
        if not replaced:
            scope = made
        replaced.update(languages)
        return made

    interpreter._patch_lang = patch
    _take_numbers_of_one_element(interpreter)


def _take_numbers_of_one_element(interpreter) -> None:
    """NumPy 2.5 makes no number of an array of shape (1,), which Triton 3.6 holds scalars in."""
    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch
