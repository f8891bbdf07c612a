"""Whole layers that older code has pickled, which had fewer attributes and stood elsewhere."""

import pickle

import pytest
import torch

import fused_reparam as fr

PRIOR = "prior_mean prior_std mixture rho_init"
# Of layers of version 0.1: their file then, their attributes, options that it did not have.
LATENT = "scale reduction clamp dim rng prior free_bits free_bits_per beta num_samples"
OLDER = [
    (lambda: fr.FusedGaussianLatent(prior=(0.5, 2.0), free_bits=0.5), "gaussian", LATENT, 2),
    # As it was first: of a standard normal prior.
    (lambda: fr.FusedGaussianLatent("std"), "gaussian", "scale reduction clamp dim rng", 2),
    (lambda: fr.FusedTanhNormal(low=-2.0, clamp=(-1.0, 0.5)), "actions", "scale low high clamp", 2),
    (lambda: fr.FusedRelaxedBernoulli(0.5), "bernoulli", "tau hard", 1),
    (lambda: fr.FusedGumbelSoftmax(0.5), "categorical", "tau hard dim", 1),
    (lambda: fr.FusedCategoricalLatent(0.5), "categorical", "tau hard dim reduction", 1),
    (lambda: fr.FusedOneHotCategorical(0.1), "categorical", "unimix dim", 1),
    (
        lambda: fr.BayesianLinear(5, 3, mixture=(0.5, 1.0, 0.25)), "bayes",
        f"{PRIOR} in_features out_features local_reparameterization", 1,
    ),
    (
        lambda: fr.BayesianConv2d(
            4, 2, (3, 2), padding=1, padding_mode="circular", groups=2, prior_std=0.5
        ),
        "bayes", f"{PRIOR} stride padding dilation groups padding_mode _around", 1,
    ),
]  # fmt: skip


def older(layer, file, names):
    """The pickle of a layer as that code would have made it."""
    held = vars(layer)
    held_otherwise = "prior", "mixture", "clamp"
    now = {name: getattr(layer, name) for name in held_otherwise if hasattr(layer, name)}
    held["_around"] = held.get("_reversed_padding_repeated_twice")
    attributes = {name: held.get(name, now.get(name)) for name in names.split()}
    for name in held.keys() - vars(torch.nn.Module()).keys():
        del held[name]
    held.update(attributes)
    said = f"{type(layer).__module__}\n".encode()
    return pickle.dumps(layer, protocol=0).replace(said, f"fused_reparam.modules.{file}\n".encode())


@pytest.mark.parametrize(("make", "file", "names", "count"), OLDER)
def test_it_goes_on_working(make, file, names, count):
    torch.manual_seed(0)
    layer, said = make(), repr(make())
    state = {name: t.clone() for name, t in layer.state_dict().items()}
    found = pickle.loads(older(layer, file, names))
    twin = make()
    twin.load_state_dict(state)
    assert (type(found), repr(found)) == (type(twin), said)
    args = [torch.rand(4, 3, 5) for _ in range(count)]
    for mode in (True, False):
        results = []
        for one in (found.train(mode), twin.train(mode)):
            torch.manual_seed(1)
            y = one(*args)
            results.append((y, one.kl()) if hasattr(one, "kl") else y)
        torch.testing.assert_close(*results)
    with fr.sampling(found):
        found(*args)
    again = pickle.loads(pickle.dumps(found))
    assert repr(again) == said
    assert vars(again).keys() == vars(found).keys()
