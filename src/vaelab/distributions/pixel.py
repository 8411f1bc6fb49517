"""A decoder of images that reads its own output: every pixel given the code and the pixels before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadInput
from .likelihood import Likelihood
from .likelihoods import beside
from .observations import Observation
from .special import Generator

AT_ONCE = 2**21  # numbers of a layer at once, where nothing has to be kept for a backward pass


class PixelDecoder(nn.Module):
    """p(x|z) = Π p(x_i | x_1, ..., x_(i-1), z) over the entries of an image in raster order, colours within a pixel.

    Colours are laid side by side as columns, so that red, green and blue of a pixel come one after the other.

    Args:
        net: Such as `vaelab.nets.pixel_cnn.PixelCNN`, over images of one channel and `colours` times the columns.
        likelihood: Of one entry, given the net's output there.
        shape: (colours, height, breadth) of a row.
        prepare: Brings entries near one for the net, with 0 for what is not known; None leaves them as they are.
        word_dropout: Share of the entries that are hidden from the net in training, which makes it ask the code; what
            it has to predict stays as it is (Bowman et al., Generating sentences from a continuous space, 2016).

    Attributes:
        working_channels: Numbers that are held at once for each entry of a row.

    Raises:
        BadInput: for a likelihood of which the entries of a row hang together.
    """

    def __init__(
        self,
        net: nn.Module,
        likelihood: Likelihood,
        shape: Sequence[int],
        prepare: Callable[[Tensor], Tensor] | None = None,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not likelihood.by_entry:
            rule = "a decoder that draws entry by entry needs one with parameters for each"
            raise BadInput("likelihood", type(likelihood).__name__, rule, "model.decoder=mlp takes it")
        self.net, self.likelihood, self.shape = net, likelihood, tuple(shape)
        self.prepare, self.word_dropout = prepare, word_dropout
        self.working_channels = max(likelihood.channels, 2 * getattr(net, "width", 1))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> PixelObservation:
        """The distribution of x for each z, [K, B, L]; [B, L] counts as K = 1. A condition [B, C] is set beside z."""
        z = beside(z, condition)
        return PixelObservation(self, z if z.ndim == 3 else z[None], self.word_dropout if self.training else 0.0)

    def given(self, x: Tensor, z: Tensor, hidden: float = 0.0) -> Observation:
        """The distribution of each entry of rows x [N, *shape] given those before it and codes z [N, L], K = 1."""
        seen = self.seen(x)
        if hidden:
            seen = seen * (torch.rand_like(seen) >= hidden)
        output = self.net(seen, z)
        colours, height, breadth = self.shape
        output = output.view(len(x), -1, height, breadth, colours).movedim(-1, 2)
        return self.likelihood(output[None])

    def seen(self, x: Tensor) -> Tensor:
        """Rows [N, C, H, W] as the net reads them, [N, 1, H, W C]."""
        flat = x.movedim(1, -1).flatten(2)[:, None]
        return flat if self.prepare is None else self.prepare(flat)

    @torch.no_grad()
    def drawn(self, z: Tensor, choose: Callable[[Observation], Tensor]) -> Tensor:
        """Rows [N, *shape] for codes z [N, L], every entry chosen from its distribution given those before it.

        A row of pixels takes one pass of the vertical stack over the rows within reach, and every pixel one of the
        horizontal stack over the columns within reach.
        """
        net: Any = self.net
        colours, height, breadth = self.shape
        told, reach = net.read(z), net.reach
        x = torch.zeros(len(z), height, breadth * colours, dtype=told.dtype, device=told.device)
        seen = torch.zeros_like(x)[:, None]
        for row in range(height):
            rows = slice(max(0, row - reach), row + 1)
            above = net.above(seen[:, :, rows], told[:, :, rows])[:, :, -1:]
            for column in range(breadth * colours):
                columns = slice(max(0, column - reach), column + 1)
                output = net.along(seen[:, :, row : row + 1, columns], above[..., columns])[None, ..., -1, -1:]
                x[:, row, column] = choose(self.likelihood(output))[0, :, 0].to(x.dtype)
                entry = x[:, row, column]
                seen[:, 0, row, column] = entry if self.prepare is None else self.prepare(entry)
        return x.view(len(z), height, breadth, colours).movedim(-1, 1)


class PixelObservation:
    """A distribution of images whose every entry depends on the code and on all entries before it.

    Args:
        decoder: With the net and the likelihood of an entry.
        z: Codes, [K, B, L].
        hidden: Share of the entries hidden from the net.
    """

    def __init__(self, decoder: PixelDecoder, z: Tensor, hidden: float = 0.0) -> None:
        self.decoder, self.z, self.hidden = decoder, z, hidden

    @property
    def mean(self) -> Tensor:
        """The mean of every entry given the code and the entries before it, these at their own means, [K, B, *shape].

        A mean over all images has no closed form; this is a function of the code alone. Whole numbers are rounded, so
        that for bits it is the likeliest next one throughout, and of those the probability.
        """

        def nearest(entry: Observation) -> Tensor:
            return entry.mean.round() if self.decoder.likelihood.discrete else entry.mean

        return self._each(lambda z: self.decoder.given(self.decoder.drawn(z, nearest), z).mean[0])

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density or log-mass in nats of x [B, *shape], [K, B], in one pass over all entries."""
        samples, rows = torch.broadcast_shapes(self.z.shape[:2], (1, len(x)))
        target = x.to(self.z.dtype).expand(samples, rows, *x.shape[1:]).flatten(0, 1)
        return self._each(lambda z, rows: self.decoder.given(rows, z, self.hidden).log_prob(rows)[0], target)

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """One draw for each sample and row, entry by entry, [K, B, *shape]."""
        return self._each(lambda z: self.decoder.drawn(z, lambda entry: entry.sample(generator)))

    def _each(self, function: Callable[..., Tensor], target: Tensor | None = None) -> Tensor:
        """A function of codes [N, L], and rows, for each sample and row; in parts where no gradient is kept."""
        samples, rows = self.z.shape[:2]
        if target is not None:
            rows = len(target) // samples
        codes = self.z.expand(samples, rows, -1).flatten(0, 1)
        entries = self.decoder.working_channels * prod(self.decoder.shape)
        size = max(1, len(codes) if torch.is_grad_enabled() else AT_ONCE // entries)
        given = (codes,) if target is None else (codes, target)
        parts = [function(*part) for part in zip(*(part.split(size) for part in given), strict=True)]
        return torch.cat(parts).unflatten(0, (samples, rows))
