"""What `gpu-report` measures, in which order, and for how long at most."""

from __future__ import annotations

from dataclasses import dataclass

from bench.ops import OPS


@dataclass(frozen=True)
class Step:
    """One run of the bench."""

    name: str
    words: tuple[str, ...]
    most: float
    """Seconds after which it is ended, of the default budget; of another in proportion."""

    @property
    def op(self) -> str:
        return self.name.split()[0]


def steps(device: str) -> tuple[list[Step], list[Step]]:
    """What the targets ask for; then how time grows and all else, most important first."""
    if device == "cpu":
        few = ("--sizes", "16x20", "--dtype", "float32", "--variants", "distributions,reference")
        work = ("--work", "forward+backward")
        words = ("--op", "gaussian_latent", "--quick", *few, *work)
        return [Step("gaussian_latent 16x20", words, 400)], []

    def op(name: str, size: str, most: float = 90) -> Step:
        return Step(f"{name} {size}", ("--op", name, "--quick", "--sizes", size), most)

    first = [op("gaussian_latent", "64M", 130), op("gaussian_latent", "128x20")]
    rest = [
        Step("training_step --quick", ("--op", "training_step", "--quick"), 120),
        op("gaussian_latent", "1M"),
        op("gaussian_latent", "256M"),
        op("gaussian_latent", "16M"),
        op("gaussian_latent_from_moments", "64M"),
        op("gaussian_rsample", "64M"),
        op("gaussian_kl", "64M"),
        op("normal", "64M"),
        op("gaussian_latent", "1G"),
        # With the whole Bayesian layer, in place of the smaller one.
        Step("training_step", ("--op", "training_step"), 150),
        op("gaussian_latent", "16k,128k"),
        op("gaussian_rsample", "128x20,1M"),
        op("gaussian_latent_from_moments", "128x20,1M"),
        op("gaussian_kl", "128x20,1M"),
        op("normal", "128x20,1M"),
        op("gumbel_softmax", "4096x1024,4x8192x16x16"),
        op("sample_weight", "1e7"),
        op("gaussian_latent_samples", "8x128x1024"),
        op("tanh_normal_rsample", "256x6"),
    ]
    planned = {step.op for step in (*first, *rest)}
    return first, rest + [op(name, OPS[name].sizes[-1], 45) for name in OPS if name not in planned]
