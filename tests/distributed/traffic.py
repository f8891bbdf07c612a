"""Cases of any number of ranks: what a step of Bayesian layers under FSDP2 sends, and when.

The counts are those of docs/distributed.md, by PyTorch's profiler.
"""

from collections import Counter
from math import prod

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import fused_reparam as fr

SIZE, LAYERS = 16, 3
WEIGHTS = LAYERS * SIZE * SIZE
GATHER, SCATTER, ADD = "_allgather_base_", "_reduce_scatter_base_", "allreduce_"
# Of a functional collective, as DTensor's, and of which list the sizes are.
NAMES = {
    "c10d::_allgather_base_": (GATHER, 0),
    "c10d::_reduce_scatter_base_": (SCATTER, 1),
    "_c10d_functional::all_reduce": (ADD, 0),
}


def sent(step):
    """Messages, and elements of the whole tensor, by collective."""
    with torch.profiler.profile(record_shapes=True) as profile:
        step()
    messages, elements = Counter(), Counter()
    for event in profile.events():
        if event.name in NAMES:
            name, at = NAMES[event.name]
            messages[name] += 1
            elements[name] += prod(event.input_shapes[at])
    known = {n for n in (e.name for e in profile.events()) if n.startswith("c10d::")}
    assert known <= {*NAMES, "c10d::allreduce_"}, known
    return messages, elements


def model(reshard, **options):
    torch.manual_seed(1)
    layers = [fr.BayesianLinear(SIZE, SIZE, bias=False, **options) for _ in range(LAYERS)]
    for layer in layers:
        fully_shard(layer, reshard_after_forward=reshard)
    return fully_shard(nn.Sequential(*layers), reshard_after_forward=reshard)


def case_a_step_gathers_and_scatters_means_and_scales_and_adds_up_one_number_a_weight():
    x = torch.randn(4, SIZE)
    for reshard in (True, False):
        for options in ({}, {"noise": "rank"}):
            net = model(reshard, **options)

            def step(net=net):
                loss = net(x).square().mean()
                (loss + fr.kl_divergence(net)).backward()

            step()  # what is sent once
            messages, elements = sent(step)
            passes = 2 if reshard else 1
            assert elements[GATHER] == passes * 2 * WEIGHTS, (reshard, elements)
            assert messages[GATHER] == passes * LAYERS, (reshard, messages)
            assert elements[SCATTER] == 2 * WEIGHTS, (reshard, elements)
            assert messages[SCATTER] == LAYERS, (reshard, messages)
            # Left whole, each rank has the KL of its forward pass.
            of_kl = LAYERS if reshard else 0
            assert elements[ADD] == messages[ADD] == of_kl, (reshard, messages)


def case_noise_is_never_sent():
    net = model(True)
    with torch.no_grad():
        net(torch.randn(4, SIZE))
        messages, elements = sent(lambda: net(torch.randn(4, SIZE)))
    assert messages == {GATHER: LAYERS}
    assert elements == {GATHER: 2 * WEIGHTS}
    key = fr.noise.key(3)

    def draw():
        part = fr.noise.shard(fr.noise.fold_in(key, 7), dist.get_rank() * SIZE)
        fr.gaussian_latent(torch.zeros(SIZE), torch.zeros(SIZE), key=part)
        fr.noise.for_rank(key)

    assert sent(draw) == (Counter(), Counter())
