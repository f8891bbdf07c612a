"""How an op is computed: one module per backend, each with the same functions.

``reference/`` is the specification and states what the arguments mean; ``dispatch.py`` decides
which backend serves a device.
"""

from .cpu import cache  # noqa: F401  (a relative cache folder is one of where the import happened)
