"""Mass over strings of tokens: the likelihood `tokens`, and decoders that read what they have written.

Both are the same mass. A string of n tokens costs its n tokens and its end, each given the code and, where the decoder
reads its own output, all tokens before; padding costs nothing. The last entry of a row can only be its end, so that it
costs nothing either, and the mass of all strings of at most T - 1 tokens is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.tokens import BEGIN, END, PADDING, UNKNOWN, in_form, lengths, over, shifted
from .likelihoods import Likelihood, beside
from .normal import full_precision
from .observations import Generator

ASCII = 128
AT_ONCE = 512  # rows decoded at once where nothing has to be kept for a backward pass


class Tokens(Likelihood):
    """A mass over strings, from logits of the tokens at each position, which do not see each other.

    Args:
        vocabulary: Tokens there are, those of `vaelab.core.tokens` among them; all but the first two can be written.
    """

    discrete = True
    support = "rows of tokens: those of a string, one end, and padding after it"

    def __init__(self, vocabulary: int = END + ASCII) -> None:
        super().__init__()
        self.channels = vocabulary - END

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of rows x [..., T] are tokens that may stand there."""
        return in_form(x) & (x < END + self.channels) & (x == x.round())

    def forward(self, parameters: Tensor) -> TokensObservation:
        """The distribution of x at logits [K, B, vocabulary - 2, T]."""
        return TokensObservation(full_precision(parameters))


class TokensObservation:
    """Mass of strings whose tokens are drawn independently until one of them is the end.

    Args:
        logits: [K, B, tokens, T].
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def mean(self) -> Tensor:
        """The likeliest token at each position up to the first end: a row of tokens, [K, B, T]. Tokens have no mean."""
        return _ended(self.logits.argmax(2) + END).to(self.logits.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of rows x [B, T], [K, B]."""
        samples, rows = torch.broadcast_shapes(self.logits.shape[:2], (1, len(x)))
        target = x.long().expand(samples, rows, -1)
        written, logits = (target - END).clamp(min=0), self.logits.expand(samples, rows, -1, -1)
        nats = F.cross_entropy(logits.flatten(0, 1), written.flatten(0, 1), reduction="none").view(target.shape)
        return _possible(-(nats * _counted(target)).sum(-1), target)

    def guesses(self, x: Tensor) -> Tensor:
        """The likeliest token wherever rows x [B, T] have one, [K, B, T]; padding elsewhere."""
        return (self.logits.argmax(2) + END).masked_fill(~_counted(x), PADDING)

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Rows of tokens in the logits' type, [K, B, T]."""
        table = self.logits.softmax(2).movedim(2, -1)
        drawn = torch.multinomial(table.flatten(0, -2), 1, generator=generator).view(table.shape[:-1])
        return _ended(drawn + END).to(self.logits.dtype)


class SequenceDecoder(nn.Module):
    """p(x|z) of strings, by a network that reads the code and the tokens before.

    Args:
        net: Such as `vaelab.nets.recurrent.RecurrentDecoder`.
        likelihood: Of the tokens.
        steps: T, the entries of a row.
        word_dropout: Share of the tokens read that are hidden from the network in training, which makes it ask the
            code; the tokens to be written stay as they are (Bowman et al., Generating sentences from a continuous
            space, 2016).
    """

    def __init__(self, net: nn.Module, likelihood: Tokens, steps: int, word_dropout: float = 0.0) -> None:
        super().__init__()
        self.net, self.likelihood, self.shape, self.word_dropout = net, likelihood, (steps,), word_dropout

    def forward(self, z: Tensor, condition: Tensor | None = None) -> SequenceObservation:
        """The distribution of x for each z, [K, B, L]; [B, L] counts as K = 1. A condition [B, C] is set beside z."""
        z = beside(z, condition)
        hidden = self.word_dropout if self.training else 0.0
        return SequenceObservation(self.net, z if z.ndim == 3 else z[None], self.shape[0], hidden)


class SequenceObservation:
    """Mass of strings whose every token depends on the code and on all tokens before it.

    Args:
        net: From codes, tokens read and their counts to logits; and step by step.
        z: Codes, [K, B, L].
        steps: T.
        hidden: Share of the tokens read that are hidden.
    """

    def __init__(self, net: Any, z: Tensor, steps: int, hidden: float = 0.0) -> None:
        self.net, self.z, self.steps, self.hidden = net, z, steps, hidden

    @property
    def mean(self) -> Tensor:
        """The string that takes the likeliest token at every step, [K, B, T]. Tokens have no mean."""
        return self._written(lambda logits: logits.argmax(-1))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of rows x [B, T], [K, B], in one pass over what would have been written before."""
        return self._each(self._log_mass, x)

    @torch.no_grad()
    def guesses(self, x: Tensor) -> Tensor:
        """The likeliest token given those before it, wherever rows x [B, T] have one, [K, B, T]; padding elsewhere."""
        return self._each(self._guessed, x)

    def _each(self, function: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
        """A function of codes [N, L] and rows [N, T] for each sample and row; in parts where no gradient is kept."""
        samples, rows = torch.broadcast_shapes(self.z.shape[:2], (1, len(x)))
        target = x.long().expand(samples, rows, -1).flatten(0, 1)
        codes = self.z.expand(samples, rows, -1).flatten(0, 1)
        size = max(1, len(target)) if torch.is_grad_enabled() else AT_ONCE
        parts = [function(*part) for part in zip(codes.split(size), target.split(size), strict=True)]
        return torch.cat(parts).unflatten(0, (samples, rows))

    def _log_mass(self, codes: Tensor, target: Tensor) -> Tensor:
        logits, counted = self._logits(codes, target)
        nats = F.cross_entropy(logits, (target[counted] - END).clamp(min=0), reduction="none")
        nowhere = torch.zeros(target.shape, dtype=nats.dtype, device=nats.device)
        return _possible(-nowhere.masked_scatter(counted, nats).sum(-1), target)

    def _guessed(self, codes: Tensor, target: Tensor) -> Tensor:
        logits, counted = self._logits(codes, target)
        return torch.full_like(target, PADDING).masked_scatter(counted, logits.argmax(-1) + END)

    def _logits(self, codes: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the tokens that cost something, row after row, and where these stand, [N, T]."""
        logits = self.net(codes, self._read(target), _scored(target))
        return full_precision(logits), _counted(target)

    def _read(self, target: Tensor) -> Tensor:
        """The tokens before each one, some of them hidden."""
        read = shifted(target)
        if not self.hidden:
            return read
        covered = torch.rand(read.shape, device=read.device) < self.hidden
        return torch.where(covered & (read != BEGIN), UNKNOWN, read)

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Rows of tokens in the codes' type, [K, B, T], written one after the other until all have ended."""
        return self._written(lambda logits: torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0])

    @torch.no_grad()
    def _written(self, choose: Callable[[Tensor], Tensor]) -> Tensor:
        codes = self.z.flatten(0, 1)
        rows = torch.full((len(codes), self.steps), PADDING, device=codes.device)
        state = self.net.begin(codes)
        token = torch.full((len(codes),), BEGIN, device=codes.device)
        for place in range(self.steps - 1):
            logits, state = self.net.step(token, state)
            token = torch.where(over(token), PADDING, choose(full_precision(logits)) + END)
            rows[:, place] = token
            if over(token).all():
                break
        return _ended(rows).view(*self.z.shape[:2], -1).to(self.z.dtype)


def _ended(rows: Tensor) -> Tensor:
    """Rows of tokens [..., T] with padding after the first end, which comes at the last entry at the latest."""
    before = F.pad(over(rows).cumsum(-1)[..., :-1], (1, 0)) > 0
    rows = rows.masked_fill(before, PADDING)
    rows[..., -1] = torch.where(before[..., -1], PADDING, END)
    return rows


def _scored(target: Tensor) -> Tensor:
    """How many entries of rows [..., T] cost something: those up to the end, but for the last, which is certain."""
    return lengths(target).clamp(max=target.shape[-1] - 1)


def _counted(target: Tensor) -> Tensor:
    """Which entries of rows [..., T] these are."""
    return torch.arange(target.shape[-1], device=target.device) < _scored(target)[..., None]


def _possible(log_mass: Tensor, target: Tensor) -> Tensor:
    """The log-mass where a row is in the form of strings, else -infinity."""
    return torch.where(in_form(target).all(-1), log_mass, -math.inf)
