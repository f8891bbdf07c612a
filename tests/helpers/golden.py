"""The golden noise: words and normals of some keys, for every backend."""

import json

from tests.helpers.paths import ROOT

CASES = json.loads((ROOT / "tests" / "golden" / "noise_stream_v1.json").read_text())["cases"]
for _case in CASES:
    _case["seed"], _case["offset"] = int(_case["seed"]), int(_case["offset"])
