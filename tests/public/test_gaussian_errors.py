"""Bad input: the error says what was given and what was expected."""

import pytest
import torch

import fused_reparam
from fused_reparam import (
    FusedGaussianLatent,
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
    noise,
)

MU = torch.zeros(4, 6)
FUNCTIONS = [gaussian_latent, gaussian_rsample, gaussian_kl]


def raises(error, says, call):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_scales(function):
    raises(ValueError, "give exactly one of logvar, .*; got none", lambda: function(MU))
    raises(ValueError, "exactly one .*got logvar and std", lambda: function(MU, MU, std=MU))
    raises(ValueError, "got var and rho", lambda: function(MU, var=MU, rho=MU))
    raises(TypeError, "std must be a floating tensor or a number, got 'x' of type str",
           lambda: function(MU, std="x"))  # fmt: skip
    raises(TypeError, "var .*got True of type bool", lambda: function(MU, var=True))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_shapes_and_devices(function):
    raises(
        ValueError,
        r"mu and logvar must have shapes that broadcast, got mu \(4, 6\) and logvar \(4, 5\)",
        lambda: function(MU, torch.zeros(4, 5)),
    )
    raises(
        ValueError,
        "on one device, got mu on cpu and rho on meta",
        lambda: function(MU, rho=torch.zeros(4, 6, device="meta")),
    )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
def test_dtypes(function, dtype):
    bad = torch.zeros(4, 6).to(dtype)
    said = f"must be float32, float64, float16 or bfloat16, got {dtype} of shape"
    raises(TypeError, f"mu {said}", lambda: function(bad, MU))
    raises(TypeError, f"logvar {said}", lambda: function(MU, bad))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_not_a_tensor(function):
    raises(
        TypeError, "mu must be a floating tensor, got 3.0 of type float", lambda: function(3.0, 1.0)
    )
    raises(TypeError, "mu must be a dense", lambda: function(MU.to_sparse(), MU))


@pytest.mark.parametrize("function", [gaussian_latent, gaussian_kl])
def test_reductions(function):
    says = "reduction must be one of none, sample, sum, mean, batchmean, got 'avg'"
    raises(ValueError, says, lambda: function(MU, MU, reduction="avg"))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_clamps(function):
    raises(ValueError, "clamp bounds logvar or log_std, the scale given is std",
           lambda: function(MU, std=MU, clamp=(0, 1)))  # fmt: skip
    raises(ValueError, r"low <= high, got \(2.0, 1.0\)", lambda: function(MU, MU, clamp=(2, 1)))
    raises(ValueError, "low <= high", lambda: function(MU, MU, clamp=(float("nan"), 1)))
    raises(ValueError, "two numbers", lambda: function(MU, MU, clamp=3))
    raises(ValueError, "two numbers", lambda: function(MU, MU, clamp=(1, 2, 3)))
    raises(ValueError, "two numbers", lambda: function(MU, MU, clamp=("a", "b")))


@pytest.mark.parametrize("function", [gaussian_latent, gaussian_rsample])
def test_noise_sources(function):
    key, generator = noise.key(0), torch.Generator()
    raises(TypeError, "key must be a uint64 tensor of shape", lambda: function(MU, MU, key=3))
    raises(TypeError, "dtype torch.uint64, got torch.int64",
           lambda: function(MU, MU, key=torch.zeros(2, dtype=torch.int64)))  # fmt: skip
    raises(ValueError, r"shape \(2,\).*got shape \(3,\)",
           lambda: function(MU, MU, key=torch.zeros(3, dtype=torch.uint64)))  # fmt: skip
    raises(ValueError, "at most one", lambda: function(MU, MU, key=key, generator=generator))
    raises(ValueError, "at most one", lambda: function(MU, MU, key=key, eps=MU))
    raises(ValueError, "takes neither", lambda: function(MU, MU, key=key, rng="torch"))
    raises(ValueError, "rng must be one of philox, torch, got 'numpy'",
           lambda: function(MU, MU, rng="numpy"))  # fmt: skip
    raises(ValueError, r"eps must have the sample's shape \(4, 6\), got \(6,\)",
           lambda: function(MU, MU, eps=torch.zeros(6)))  # fmt: skip
    raises(TypeError, "eps must be float32", lambda: function(MU, MU, eps=MU.int()))
    raises(ValueError, "eps must be on the parameters' device cpu, got meta",
           lambda: function(MU, MU, eps=MU.to("meta")))  # fmt: skip


def test_moments():
    call = gaussian_latent_from_moments
    raises(ValueError, r"even size along dim 1 .*got 5: shape \(4, 5\)",
           lambda: call(torch.zeros(4, 5)))  # fmt: skip
    raises(ValueError, r"shape \(4, 6\) have no dim 2", lambda: call(MU, 2))
    raises(ValueError, r"shape \(6,\) have no dim 1", lambda: call(torch.zeros(6)))
    raises(ValueError, r"shape \(\) have no dim 0", lambda: call(torch.zeros(()), 0))
    raises(
        ValueError, "scale must be one of logvar, .*got 'sigma'", lambda: call(MU, scale="sigma")
    )
    raises(TypeError, "moments must be float32.*int64", lambda: call(MU.long()))
    raises(ValueError, "reduction must be", lambda: call(MU, reduction="avg"))
    raises(ValueError, "clamp bounds", lambda: call(MU, scale="std", clamp=(0, 1)))


def test_module():
    raises(ValueError, "scale must be one of", lambda: FusedGaussianLatent("sigma"))
    raises(ValueError, "reduction must be", lambda: FusedGaussianLatent(reduction="avg"))
    raises(ValueError, "clamp bounds", lambda: FusedGaussianLatent("var", clamp=(0, 1)))
    raises(ValueError, "rng must be", lambda: FusedGaussianLatent(rng="numpy"))
    for layer in (FusedGaussianLatent(dim=1), FusedGaussianLatent(dim=1).eval()):
        raises(ValueError, "even size", lambda layer=layer: layer(torch.zeros(2, 3)))
        raises(ValueError, "broadcast", lambda layer=layer: layer(MU, torch.zeros(5)))


def test_noise_op_called_by_hand():
    op = torch.ops.fused_reparam.normal
    raises(TypeError, "uint64, got torch.float32", lambda: op(torch.zeros(2), [6], [], torch.half))
    raises(ValueError, "shape", lambda: op(noise.key(0)[:0], [6], [], torch.float32))


def test_unavailable_backends():
    raises(
        ValueError,
        "unknown backend 'cuda'; the backends are",
        lambda: fused_reparam.backend("cuda").__enter__(),
    )
    meta = torch.zeros(2, 3, device="meta")
    with (
        fused_reparam.backend("native"),
        pytest.raises(
            RuntimeError, match=r"'native' was asked for and can't serve meta tensors: .*CPU"
        ),
    ):
        fused_reparam.current_backend(meta.device)
