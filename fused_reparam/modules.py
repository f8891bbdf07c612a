"""The place of this package's layers in version 0.1, for models that were pickled then.

Import layers from ``fused_reparam`` itself.
"""

import sys

from . import nn

for _file in ("actions", "bayes", "bernoulli", "categorical", "gaussian", "mean_field"):
    sys.modules[f"{__name__}.{_file}"] = nn
