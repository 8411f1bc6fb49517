"""The numbers of a diagnosis, each with its interval, from what the model made of held-out rows."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..measure.aggregate import (
    area_under_curve,
    holes,
    jarque_bera,
    saturation,
    separability,
    two_sample,
    two_sample_limit,
)
from ..measure.blur import fine_energy
from ..measure.bound import ACTIVE_NATS, ACTIVE_VARIANCE
from ..measure.estimate import Estimate, mean_of, ratio_of
from ..measure.information import in_use, information
from ..measure.samples import copies, coverage_density, nearest_two, spread_ratio
from .drawn import Drawn

Numbers = dict[str, Estimate]
NATS, SHARE = "nats per sample", "share of units"
MOST_COMPARED = 1000  # rows whose distances are all taken: a table of a million


def measure(drawn: Drawn) -> Numbers:
    """Every number that applies to this model and data; those that are not finite are left out."""
    found: Numbers = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of a single row's variance, which becomes no number
        strings = drawn.config.likelihood.name == "tokens"
        for part in (part for part in MEASURES if not (strings and part in OF_NUMBERS)):
            # Outputs beyond all bounds, of a model that diverged, have no distances and no classifiers.
            with contextlib.suppress(ValueError):
                found |= part(drawn)
    return {name: number for name, number in found.items() if np.isfinite(number.value).all()}


def _dimensions(d: Drawn) -> Numbers:
    """Means, variances and divergence of each dimension, and how many are in use."""
    read, kl = d.held_out, mean_of(d.held_out.kl, "nats")
    size = d.config.model.latent  # what stands behind are entries of a label
    centred = (read.mean - read.mean.mean(0)) ** 2 * len(read.mean) / max(len(read.mean) - 1, 1)
    spread = mean_of(centred, "prior variances")
    in_each = {} if "codes" in d.offers else {"active_units_variance": in_use(_first(spread, size), ACTIVE_VARIANCE)}
    if read.kl.shape[1] > 1 or read.mean.shape[1] == 1:  # else it is known of the whole code alone
        unit = "groups" if d.config.model.groups else "dimensions"
        in_each["active_units_kl"] = replace(in_use(_first(kl, size), ACTIVE_NATS), unit=unit)
    return {
        "code_mean": mean_of(read.mean, "prior deviations"),
        "code_variance": spread,
        "posterior_variance": mean_of(read.variance, "prior variances"),
        "posterior_variance_median": Estimate(np.median(read.variance, 0), None, "prior variances"),
        "kl_per_dimension": kl,
        "rate": mean_of(read.kl.sum(1), NATS),
        **in_each,
        "saturation": Estimate(saturation(read.mean), None, "share of rows"),
    }


def _first(number: Estimate, size: int | None) -> Estimate:
    return replace(number, value=number.value[:size], interval=number.interval[:size])


def _aggregate(d: Drawn) -> Numbers:
    """Codes of the data against draws from the prior; a single row has no distribution."""
    read = d.held_out
    if len(read.z) < 2:
        return {}
    own = d.training is None
    centres = read.mean if d.training is None else d.training.mean
    noise = np.full(read.z.shape[1], two_sample_limit(len(read.z), len(d.prior)))
    told = separability(read.z, d.prior)
    return {
        "two_sample": Estimate(two_sample(read.z, d.prior), noise, "Kolmogorov-Smirnov distance"),
        "normality": Estimate(jarque_bera(read.z), None, "Jarque-Bera, 6 expected at most"),
        "holes": holes(d.prior, read.z, centres, np.sqrt(np.median(read.variance, 0)), own),
    } | ({"separability": told} if told is not None else {})


def _information(d: Drawn) -> Numbers:
    """What z says of x, between bounds; see `measure.information`."""
    if d.pairs is None:
        return {}
    read, rows = d.held_out, len(d.pairs)
    moments = read.mean[:rows], read.variance[:rows]
    masses, normal = "euclidean" not in d.offers, "normal" in d.offers
    found = information(read.z[:rows], d.pairs, d.log_prior, *moments, masses=masses, normal=normal)
    return {
        "mutual_information": found.mutual,
        "aggregate_kl": found.marginal,
        **({"total_correlation": found.correlation} if found.correlation is not None else {}),
        "information_ceiling": Estimate(found.ceiling, None, "nats"),
    }


def _bounds(d: Drawn) -> Numbers:
    """The bound on held-out and training rows, against a constant decoder, and with another row's code."""
    held_out = mean_of(d.held_out.bound, NATS)
    found = {"bound": held_out, "listening": mean_of(d.held_out.log_px - d.shuffled, NATS)}
    if d.baseline is not None:
        found["baseline"] = Estimate(d.baseline, None, NATS)
        found["skill"] = Estimate(d.baseline - held_out.value, held_out.interval, NATS)
    if d.training is not None:
        found["training_bound"] = training = mean_of(d.training.bound, NATS)
        gap = held_out.value - training.value
        found["overfit_gap"] = Estimate(gap, float(np.hypot(held_out.interval, training.interval)), NATS)
    return found


def _noise(d: Drawn) -> Numbers:
    """Squared residuals over those of the model's own draws: 1 where the decoder's noise is right."""
    read = d.held_out
    real, own = (read.x - read.fitted) ** 2, (read.drawn - read.fitted) ** 2
    unit = "of the variance the decoder expects"
    found = {"dispersion": ratio_of(real.sum(1), own.sum(1), unit)}
    found["dispersion_per_entry"] = Estimate(real.mean(0) / np.maximum(own.mean(0), 1e-30), None, unit)
    if d.training is not None:
        real, own = (d.training.x - d.training.fitted) ** 2, (d.training.drawn - d.training.fitted) ** 2
        found["training_dispersion"] = ratio_of(real.sum(1), own.sum(1), unit)
    if read.log_sigma is not None:
        found["log_sigma_per_entry"] = Estimate(read.log_sigma, None, "log of the model's unit")
    return found


def _entries(d: Drawn) -> Numbers:
    """How much of the rows' variance, as the model sees them, is that of a single entry."""
    variance = d.held_out.x.var(0)
    share = variance.max() / max(variance.sum(), np.finfo(np.float64).tiny)
    return {"largest_entry": Estimate(float(share), None, "of the variance of all entries")}


def _samples(d: Drawn) -> Numbers:
    """Samples from the prior against held-out and training rows."""
    real, made, noisy = (rows[:MOST_COMPARED] for rows in (d.held_out.x, d.made, d.made_noisy))
    fitted = d.held_out.fitted
    found = {
        "diversity": spread_ratio(d.made, fitted),
        "reconstruction_spread": spread_ratio(fitted, d.held_out.x),
    }
    if len(real) > 2:
        found["coverage"], found["density"] = coverage_density(real, noisy)
    if d.training is not None and np.ptp(d.training.x, 0).any():  # two distinct rows at least
        of_made, of_real = nearest_two(made, d.training.x), nearest_two(real, d.training.x)
        found["copied"] = mean_of(copies(of_made), "share of samples")
        found["copied_held_out"] = mean_of(copies(of_real), "share of held-out rows")
        found["nearest_training"] = area_under_curve(of_made[:, 0], of_real[:, 0])
        apart = float(np.median(of_real[:, 0]))
        ratio = float(np.median(of_made[:, 0])) / apart if apart > 0 else np.nan  # held-out rows that are copies
        found["distance_ratio"] = Estimate(ratio, None, "of the held-out rows' distance to training rows")
    return found


def _blur(d: Drawn) -> Numbers:
    """Fine detail of reconstructions and of samples, against the data's."""
    if not d.image or min(d.shape[-2:]) < 4:
        return {}
    channels = d.shape if len(d.shape) == 3 else (1, *d.shape)

    def fine(rows: np.ndarray) -> np.ndarray:
        return fine_energy(rows[:MOST_COMPARED].reshape(-1, *channels))

    real, unit = fine(d.held_out.x), "of the data's fine detail"
    return {
        "detail_reconstructions": ratio_of(fine(d.held_out.fitted), real, unit),
        "detail_samples": ratio_of(fine(d.made)[: len(real)], real, unit),
    }


def _units(d: Drawn) -> Numbers:
    """The worst layer's share of units that do the same on every row, and of outputs at the ends of a bounded range."""
    found = {}
    for part, seen in (("encoder", d.encoder), ("decoder", d.decoder)):
        for what, shares in (("dead", seen.dead), ("saturated", seen.ends)):
            if shares:
                found[f"{what}_{part}"] = Estimate(max(shares.values()), None, SHARE)
    return found


def _amortisation(d: Drawn) -> Numbers:
    """What local optimisation of q gains, and by how much it widens q (the middle over rows and active dimensions)."""
    if d.refined is None:
        return {}
    found = {"amortisation_gap": mean_of(d.refined.gain, NATS)}
    active = d.held_out.kl.mean(0) > ACTIVE_NATS
    if active.any() and len(active) == d.refined.log_variance.shape[1]:
        widened = np.median(d.refined.log_variance[:, active], 1)
        found["widening"] = mean_of(widened, "log of the variance's ratio")
    return found


MEASURES: tuple[Callable[[Drawn], dict[str, Any]], ...] = (
    _dimensions,
    _aggregate,
    _information,
    _bounds,
    _noise,
    _entries,
    _samples,
    _blur,
    _units,
    _amortisation,
)
OF_NUMBERS = (_noise, _entries, _samples)  # take differences of entries, which tokens do not have
