"""The Bayesian embedding."""

from functools import partial
from typing import TYPE_CHECKING, Never, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.mistakes import names_mistakes, unknown
from ...core.scalars import integer
from ...functional import arguments
from ...functional.divergence import PriorArgument
from ..stochastic import changed
from .mean_field import MeanField, Part
from .prior import Mixture, PriorOptions, no_prior

__all__ = ["BayesianEmbedding"]


class BayesianEmbedding(MeanField):
    r"""An embedding whose table ``w = mu + softplus(rho) * eps`` is drawn at each forward pass.

    An index that comes twice gets the same row. The whole table is drawn, also the rows that no
    index asks for: they are in the KL. In ``eval()`` mode the table is its mean, of which a loss is
    no ELBO; :func:`fused_reparam.sampling` lets it be drawn. The KL and the prior are as in
    :class:`BayesianLinear`.

    Args:
        num_embeddings, embedding_dim, max_norm, norm_type, scale_grad_by_freq, device, dtype: as
            ``torch.nn.Embedding`` has them. ``sparse`` it does not take: the gradient of a table
            that is drawn is dense.
        padding_idx: of a row that is never drawn, gets no gradient, and is in no KL: its mean
            stands for itself, and starts as zeros.
        prior, prior_mean, prior_std, mixture, rho_init, noise: see :class:`BayesianLinear`.

    Shape:
        as ``torch.nn.Embedding``: integers (\*) to (\*, embedding_dim). Parameters: ``weight_mu,
        weight_rho`` (num_embeddings, embedding_dim).

    Raises:
        ValueError, TypeError: as ``torch.nn.Embedding`` and :class:`BayesianLinear` do.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015.

    Example:
        >>> import torch
        >>> from fused_reparam import BayesianEmbedding
        >>> layer = BayesianEmbedding(10, 3, padding_idx=0)
        >>> y = layer(torch.tensor([0, 4, 4]))
        >>> y[0], torch.equal(y[1], y[2])
        (tensor([0., 0., 0.], grad_fn=<SelectBackward0>), True)
    """

    _of = nn.Embedding
    weight_mu: nn.Parameter
    weight_rho: nn.Parameter
    num_embeddings: int
    padding_idx: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool

    @names_mistakes
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        *,
        prior_mean: Tensor | float = 0.0,
        prior_std: Tensor | float = 1.0,
        mixture: Mixture | None = None,
        rho_init: float = -5.0,
        prior: PriorArgument = None,
        noise: str = "shared",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **mistaken: Never,
    ) -> None:
        if mistaken:
            raise unknown(type(self), mistaken)
        num_embeddings = integer("num_embeddings", num_embeddings)
        if padding_idx is not None:
            padding_idx = integer("padding_idx", padding_idx)
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"padding_idx must be one of {num_embeddings} rows, got {padding_idx}"
                )
        layer = nn.Embedding(
            num_embeddings,
            integer("embedding_dim", embedding_dim),
            padding_idx,
            None if max_norm is None else arguments.number("max_norm", max_norm),
            arguments.number("norm_type", norm_type),
            scale_grad_by_freq,
            device=device,
            dtype=dtype,
        )
        super().__init__(
            layer, prior=prior, prior_mean=prior_mean, prior_std=prior_std, mixture=mixture,
            rho_init=rho_init, noise=noise,
        )  # fmt: skip

    @classmethod
    def from_embedding(cls, layer: nn.Embedding, **options: Unpack[PriorOptions]) -> Self:
        """A layer whose means are copies of a ``torch.nn.Embedding``'s table.

        Arguments and errors are those of :meth:`BayesianLinear.from_linear`; an embedding of
        sparse gradients is refused.

        Example:
            >>> import torch
            >>> from fused_reparam import BayesianEmbedding
            >>> trained, x = torch.nn.Embedding(10, 3), torch.tensor([4, 2])
            >>> torch.equal(BayesianEmbedding.from_embedding(trained).eval()(x), trained(x))
            True
        """
        return cls._from(layer, options)

    @property
    def weight(self) -> Tensor:
        """The table that a forward pass would take: the mean, or drawn anew at each access."""
        return self._now("weight")  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """The rows of a freshly drawn table; in eval, of the mean."""
        (table,) = self._draw()
        return F.embedding(
            x, table, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq  # type: ignore[arg-type]
        )  # fmt: skip

    if TYPE_CHECKING:  # PyTorch's own returns Any
        __call__ = forward

    extra_repr = changed(__init__, prior=no_prior)

    @classmethod
    def _unfit(cls, layer: object) -> str | None:
        problem = super()._unfit(layer)
        if problem is None and layer.sparse:  # type: ignore[attr-defined]
            return "it has sparse gradients, and those of a table that is drawn are dense"
        return problem

    @staticmethod
    def _names_in(layer: nn.Module) -> list[str]:
        return ["weight"]

    @property
    def _rows_differ(self) -> bool:
        return self.padding_idx is not None

    def _parts(self, mu: Tensor, rho: Tensor) -> list[Part]:
        """The rows before and behind the one for padding."""
        if self.padding_idx is None:
            return super()._parts(mu, rho)
        mean, std, mixture = self._numbers()
        ends = (0, self.padding_idx), (self.padding_idx + 1, self.num_embeddings)
        parts = []
        for rows in [slice(a, b) for a, b in ends if a < b] or [slice(0)]:
            of_rows = partial(_of_rows, rows, mu)
            numbers = of_rows(mean), of_rows(std), mixture and tuple(map(of_rows, mixture))
            parts.append((mu[rows], rho[rows], numbers))
        return parts  # type: ignore[return-value]

    def _joined(self, drawn: list[Tensor]) -> Tensor:
        if self.padding_idx is None:
            return drawn[0]
        row = self.weight_mu[self.padding_idx].detach()[None]
        behind = 1 if self.padding_idx else 0
        return torch.cat((*drawn[:behind], row, *drawn[behind:]))


def _of_rows(rows: slice, mu: Tensor, number: Tensor | float) -> Tensor | float:
    """A number of the prior of some rows of a table."""
    return number if isinstance(number, (int, float)) else number.expand_as(mu)[rows]
