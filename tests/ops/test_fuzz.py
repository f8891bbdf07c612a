"""Generated calls of every op, most of them wrong: each gives a result or an error that says why.

The calls are made in processes of their own. Where one dies, the call that it died at is made again
alone, which says whether it is that one or what came before; then the rest goes on.
"""

import os

import pytest

from tests.helpers import fresh
from tests.helpers.paths import environment

CALLS = int(os.environ.get("FUZZ_CALLS", "1500"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
WAYS = {
    "extension": {},
    "python": {"FUSED_REPARAM_NO_EXTENSION": "1"},
    "reference": {"FUSED_REPARAM_BACKEND": "reference"},
}


def run(way, first, last):
    """The exit status, and what was printed of calls first .. last - 1."""
    env = environment(OMP_NUM_THREADS="1", **WAYS[way])
    numbers = map(str, (SEED, first, last))
    found = fresh.run_module("tests.helpers.op_fuzz", *numbers, env=env)
    return found.returncode, found.stdout.splitlines(), found.stderr


def faults(way):
    found, first = [], 0
    while first < CALLS and len(found) < 20:
        status, lines, errors = run(way, first, CALLS)
        at = [i for i, line in enumerate(lines) if line.startswith("BAD")]
        found += [f"{lines[i - 1]}\n    {lines[i]}" for i in at]
        if status == 0:
            break
        calls = [line for line in lines if line[:1].isdigit()]
        if not calls:
            return [f"no call was made: {errors[-2000:]}"]
        died = int(calls[-1].split()[0])
        alone = run(way, died, died + 1)[0]
        found.append(f"died with {status} (alone {alone}): {calls[-1]}\n{errors[-3000:]}")
        first = died + 1
    return found


@pytest.mark.parametrize("way", WAYS)
def test_every_call_of_an_op_gives_a_result_or_says_what_is_wrong(way):
    found = faults(way)
    assert not found, "\n".join(found)
