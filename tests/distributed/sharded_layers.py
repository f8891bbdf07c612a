"""Cases of two ranks: layers under FSDP2 and DDP give what one process gives for the whole batch.

All in float64, so that only the order of sums differs.
"""

import copy
import itertools

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import fused_reparam as fr
from fused_reparam import noise

BATCH = 8


class Net(nn.Module):
    """Sizes that two ranks can't halve; with ``again`` each layer is run again in the backward."""

    def __init__(self, again=False, **options):
        super().__init__()
        self.conv = fr.BayesianConv2d(1, 3, 3, **options)
        self.first = fr.BayesianLinear(3 * 2 * 2, 5, **options)
        self.last = fr.BayesianLinear(5, 1, **options)
        self.again = again

    def forward(self, x):
        for layer in (self.conv, self.first, self.last):
            x = checkpoint(layer, x, use_reentrant=False) if self.again else layer(x)
            x = x.tanh().flatten(1) if layer is self.conv else x
        return x


def net(dtype=torch.float64, **options):
    torch.manual_seed(1)  # the same first weights on all ranks
    return Net(**options).to(dtype)


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(BATCH, 1, 4, 4, generator=generator).to(dtype)


def mine(x):
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def sharded(model, reshard=True, mesh=None, **options):
    mesh = mesh or init_device_mesh("cpu", (2,))
    for layer in model.children():
        if next(layer.parameters(), None) is not None:
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard, **options)
    # The root too is to be left sharded, which it is not by default.
    return fully_shard(model, mesh=mesh, reshard_after_forward=reshard, **options)


def whole(t):
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def gradients(model):
    return {name.removeprefix("module."): whole(p.grad) for name, p in model.named_parameters()}


def backward(model, x, seed, when):
    """Forward and backward of a mean over examples and the KL, asked for at three times."""
    torch.manual_seed(seed)
    kl = fr.kl_divergence(model) / BATCH if when == "before" else 0.0
    torch.manual_seed(seed)
    loss = model(x).square().mean()
    if when == "between":
        kl = fr.kl_divergence(model) / BATCH
    (loss + kl).backward()
    if when == "after":
        kl = fr.kl_divergence(model) / BATCH
        kl.backward()
    return kl


def same(found, want, **tolerance):
    for name, g in want.items():
        torch.testing.assert_close(
            found[name], g, msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )
    assert len(found) == len(want)


def descend(*models):
    for model in models:
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        model.zero_grad()


def as_one_process(model, reference, whens=("before", "between", "after"), split=True):
    """Three steps, each with the KL asked for at another time."""
    for seed, when in enumerate(whens):
        want_kl = backward(reference, batch(), seed, when)
        kl = backward(model, mine(batch()) if split else batch(), seed, when)
        assert type(kl) is torch.Tensor
        torch.testing.assert_close(kl, want_kl)
        same(gradients(model), gradients(reference))
        descend(model, reference)


# ---- FSDP2 --------------------------------------------------------------------------------------


def case_fsdp_resharded_after_forward():
    as_one_process(sharded(net(), reshard=True), net())


def case_fsdp_left_whole_after_forward():
    as_one_process(sharded(net(), reshard=False), net())


def case_fsdp_with_copies_of_shards():
    for shape in ((2, 1), (1, 2)):  # two copies of one shard; one copy of two
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "shards"))
        as_one_process(sharded(net(), mesh=mesh), net())


def case_fsdp_activation_checkpointing():
    """The layers' noise is drawn again in the backward pass, of gathered weights."""
    for reshard in (True, False):
        as_one_process(sharded(net(again=True), reshard), net())


def case_fsdp_gradient_accumulation():
    reference, parts = net(), batch().chunk(2)
    for reshard, sync in itertools.product((True, False), (True, False)):
        model = sharded(net(), reshard)
        reference.zero_grad()
        for at, part in enumerate(parts):
            model.set_requires_gradient_sync(sync or at == 1)
            backward(reference, part, at, "between")
            backward(model, mine(part), at, "between")
        same(gradients(model), gradients(reference))


def case_fsdp_mixed_precision():
    """Weights are drawn in bfloat16; the KL of resharded weights is of those in float32."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model, master = sharded(net(torch.float32), mp_policy=policy), net(torch.float32)
    x = batch(torch.float32)
    torch.manual_seed(3)
    y = model(mine(x))
    assert y.dtype == torch.bfloat16
    # One process that does so by hand: each half of the batch, and gradients averaged.
    want = {}
    for rank, half in enumerate(x.chunk(2)):
        low = copy.deepcopy(master).bfloat16()
        torch.manual_seed(3)
        out = low(half.bfloat16())
        if rank == dist.get_rank():
            assert torch.equal(out, y)
        out.square().mean().backward()
        for name, p in low.named_parameters():
            want[name] = want.get(name, 0) + p.grad.float() / 2
    kl, want_kl = fr.kl_divergence(model), fr.kl_divergence(master)
    torch.testing.assert_close(kl, want_kl)
    want_kl.backward()
    for name, p in master.named_parameters():
        want[name] += p.grad
    (y.square().mean() + kl).backward()
    # bfloat16 gradients are rounded before they are summed.
    same(gradients(model), want, rtol=2**-8, atol=2**-8)


def case_fsdp_priors_of_tensors():
    """A prior that is a buffer of the weight's size, and one that is learned, and so sharded."""
    scale = torch.rand(5, 1, generator=torch.Generator().manual_seed(4)).double() + 0.5

    def made(learned):
        torch.manual_seed(1)
        mean = torch.randn(5, 3).double()
        layer = fr.BayesianLinear(
            3, 5, bias=False, dtype=torch.float64, prior_mean=mean,
            prior_std=nn.Parameter(scale.clone()) if learned else scale,
        )  # fmt: skip
        return nn.Sequential(layer)

    for learned, reshard in itertools.product((False, True), (True, False)):
        model, reference = sharded(made(learned), reshard), made(learned)
        for m, x in ((reference, batch()), (model, mine(batch()))):
            x = x.flatten(1)[:, :3]
            torch.manual_seed(5)
            loss = m(x).square().mean()
            m.kl = fr.kl_divergence(m)
            (loss + m.kl).backward()
        torch.testing.assert_close(model.kl, reference.kl)
        same(gradients(model), gradients(reference))


def case_fsdp_embedding_with_a_row_for_padding():
    for at in (0, 2, 4):
        torch.manual_seed(1)
        reference = nn.Sequential(fr.BayesianEmbedding(5, 3, padding_idx=at, dtype=torch.float64))
        model = sharded(copy.deepcopy(reference))
        index = torch.tensor([[0, 1, 2, 3], [4, 4, 2, 1]])
        for m, i in ((reference, index), (model, mine(index))):
            torch.manual_seed(5)
            loss = m(i).square().sum(-1).mean()
            m.kl = fr.kl_divergence(m)
            (loss + m.kl).backward()
        torch.testing.assert_close(model.kl, reference.kl)
        same(gradients(model), gradients(reference))


def case_fsdp_kl_to_a_mixture_is_an_estimate_without_bias():
    """Of weights drawn for it, other ones for each shard; copies of a shard have the same."""
    torch.manual_seed(1)
    reference = fr.BayesianLinear(30, 40, mixture=(0.5, 1.0, 0.1), rho_init=-1.0)
    draws = 200
    with torch.no_grad():
        reference.weight_mu.zero_()  # elements of one noise then have one KL
        want = torch.stack([reference.kl() for _ in range(draws)])
    for shape in ((1, 2), (2, 1)):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "shards"))
        model = fully_shard(copy.deepcopy(reference), mesh=mesh)
        torch.manual_seed(6)
        with torch.no_grad():
            found = torch.stack([model.kl() for _ in range(draws)])
        error = ((want.var() + found.var()) / draws).sqrt()
        assert abs(found.mean() - want.mean()) < 4 * error
        # Shards with the same noise would have twice the variance.
        assert 0.7 < found.var() / want.var() < 1.4
        torch.manual_seed(7)
        model.kl().backward()
        grad = model.weight_mu.grad.to_local()
        others = [torch.empty_like(grad) for _ in range(2)]
        dist.all_gather(others, grad)
        assert torch.equal(*others) == (shape == (2, 1))


# ---- DDP ----------------------------------------------------------------------------------------


def case_ddp():
    """The KL can be asked for at any time; buckets of a few bytes, and a graph that stays."""
    for options in ({}, {"bucket_cap_mb": 1e-4}, {"static_graph": True}):
        as_one_process(DistributedDataParallel(net(), **options), net())


def case_ddp_activation_checkpointing():
    for options in ({}, {"static_graph": True}):
        as_one_process(DistributedDataParallel(net(again=True), **options), net())


def case_ddp_gradient_accumulation():
    model, reference = DistributedDataParallel(net()), net()
    first, last = batch().chunk(2)
    with model.no_sync():
        backward(model, mine(first), 0, "between")
    backward(model, mine(last), 1, "between")
    for seed, part in enumerate((first, last)):
        backward(reference, part, seed, "between")
    same(gradients(model), gradients(reference))


# ---- a VAE ---------------------------------------------------------------------------------------


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 2 * 4), nn.Linear(4, 16)
        self.latent = fr.FusedGaussianLatent(dim=1)

    def forward(self, x, key):
        z, kl = self.latent(self.encoder(x), key=key)
        return (self.decoder(z.tanh()) - x).square().sum(1).mean() + kl


def case_a_vae_draws_the_latents_of_one_process():
    """The key of a rank's part: the batch's latents are those of one process, bit for bit."""
    x = batch().flatten(1)

    def made():
        torch.manual_seed(1)
        return VAE().double()

    def wrapped():
        yield "resharded", sharded(made(), True)
        yield "left whole", sharded(made(), False)
        yield "ddp", DistributedDataParallel(made())
        yield "ddp, static", DistributedDataParallel(made(), static_graph=True)

    run, latents = noise.key(7), []
    for name, model in wrapped():
        reference = made()
        for step in range(3):
            key = noise.fold_in(run, step)
            part = noise.shard(key, dist.get_rank() * len(mine(x)) * 4, dtype=x.dtype)
            want, found = reference(x, key), model(mine(x), part)
            want.backward()
            found.backward()
            dist.all_reduce(total := found.detach().clone())
            torch.testing.assert_close(total / 2, want.detach(), msg=f"{name}, step {step}")
            same(gradients(model), gradients(reference))
            descend(model, reference)
            # Of the same parameters, so that nothing but the noise can differ.
            z, _ = reference.latent(torch.zeros(len(mine(x)), 8).double(), key=part)
            all_z, _ = reference.latent(torch.zeros(len(x), 8).double(), key=key)
            latents.append(torch.equal(z, mine(all_z)))
    assert all(latents)


# ---- whose noise ---------------------------------------------------------------------------------


def gathered(t):
    parts = [torch.empty_like(t) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, t.detach())
    return parts


def case_noise_shared_or_of_each_rank():
    x = torch.eye(4)
    for options in ({}, {"mixture": (0.5, 1.0, 0.1)}, {"local_reparameterization": True}):
        for kind, alike in (("shared", True), ("rank", False)):
            torch.manual_seed(1)
            layer = fr.BayesianLinear(4, 3, noise=kind, rho_init=0.0, **options)
            one, two = gathered(layer(x))
            assert torch.equal(one, two) is alike, (options, kind)
            # The generators of the ranks are still at one place.
            assert torch.equal(*gathered(torch.randn(3)))


def case_noise_of_a_rank_is_that_of_its_key():
    torch.manual_seed(1)
    layer = fr.BayesianLinear(4, 3, noise="rank", rho_init=0.0)
    torch.manual_seed(2)
    key, of_bias = (noise.for_rank(noise.draw_key(), dist.get_rank()) for _ in range(2))
    weight, _ = fr.sample_weight(layer.weight_mu, layer.weight_rho, key=key)
    bias, _ = fr.sample_weight(layer.bias_mu, layer.bias_rho, key=of_bias)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    want = nn.functional.linear(x, weight, bias)
    forms = {"eager": layer, "compiled": torch.compile(layer, backend="aot_eager", fullgraph=True)}
    for name, form in forms.items():
        torch.manual_seed(2)
        assert torch.equal(form(x), want), name


def case_the_variance_of_the_mean_gradient():
    """By the weights' noise: with one draw for each of R ranks it is an R-th."""
    draws, spread = 1500, {}
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(3)).double()
    for kind in ("shared", "rank"):
        torch.manual_seed(1)
        layer = fr.BayesianLinear(3, 1, bias=False, noise=kind, rho_init=0.0, dtype=x.dtype)
        torch.manual_seed(4)
        grads = [
            torch.autograd.grad(layer(x).square().mean(), layer.weight_mu)[0] for _ in range(draws)
        ]
        dist.all_reduce(mean := torch.stack(grads))
        spread[kind] = (mean / 2).var(0).sum().item()
    ratio = spread["rank"] / spread["shared"]
    assert abs(ratio - 0.5) < 0.05, spread


def case_weights_that_are_made_again_have_the_same_noise():
    """``recompute=True`` draws with a key of its own, of which the same holds."""
    from fused_reparam.nn.bayes import linear

    linear.LEAST_RECOMPUTED = 0
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    for kind, bias in itertools.product(("shared", "rank"), (True, False)):
        found = []
        for again in (False, True):
            torch.manual_seed(1)
            layer = fr.BayesianLinear(4, 8, bias, noise=kind, recompute=again)
            found.append(layer(x))
            assert torch.equal(*gathered(found[-1])) is (kind == "shared")
            assert torch.equal(*gathered(torch.randn(3)))
        torch.testing.assert_close(*found)
