"""Features of rows in which samples are compared with data, each set with the name that belongs to its numbers."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import BadInput, MissingExtra
from ..core.files import read_bytes
from .importance import evaluating

CHUNK = 256  # rows at once through a network
MOST_COMPONENTS = 64
ROWS_PER_COMPONENT = 10  # the bias of the Frechet distance is then some 5 % of the rows' variance at most
# The converted weights of the TensorFlow network that every published FID is measured with: all of the file's digest,
# since it is a pickle, and a pickle runs whatever it holds.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_FEATURES = 2048
INCEPTION_BYTES = 2**27  # the file has 96 million
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth of torch-fidelity's release 0.2.0"


@dataclass(frozen=True)
class Features:
    """A named map from rows to features.

    Args:
        name: What stands beside every number, such as "pca-64".
        of: Rows [n, *shape] to features [n, D].
        takes_missing: Whether it has a place for entries that are missing, NaN.
    """

    name: str
    of: Callable[[Tensor], Any]
    takes_missing: bool = False

    def __call__(self, x: Tensor) -> np.ndarray:
        """Features of rows [n, *shape] in float64, [n, D].

        Raises:
            BadInput: for rows that are not finite, and where what comes back is no row of finite numbers for each row.
        """
        if not (torch.isfinite(x) | (torch.isnan(x) & self.takes_missing)).all():
            rule = "have no features: the model that drew them gives numbers beyond all bounds"
            raise BadInput("rows", "entries that are not finite", rule, "vaelab diagnose says why")
        parts = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for rows in x.split(CHUNK):
                found = torch.as_tensor(self.of(rows)).detach().cpu().double().numpy()
                if found.ndim != 2 or len(found) != len(rows):
                    rule = f"must give features [n, D] for its n = {len(rows)} rows"
                    raise BadInput(f"extractor {self.name}", f"shape {found.shape}", rule, "flatten(1) its output")
                parts.append(found)
        features = np.concatenate(parts)
        if not np.isfinite(features).all():
            raise BadInput(f"extractor {self.name}", "features that are not finite", "distances need numbers")
        return features


def entries() -> Features:
    """The entries of a row themselves, as the model sees them."""
    return Features("entries as the model sees them", lambda x: x.flatten(1))


def principal(rows: Tensor, components: int) -> Features:
    """The leading principal components of rows [n, *shape], in units of the deviation that they have on average there.

    One unit for all of them keeps the geometry, and makes the kernel of `samples.kernel_distance` see numbers near one.
    """
    from sklearn.decomposition import PCA

    flat = rows.flatten(1).double().numpy()
    fitted = PCA(min(components, *flat.shape), random_state=0).fit(flat)  # drawn only for rows of very many entries
    unit = float(np.sqrt(fitted.explained_variance_.mean())) or 1.0
    return Features(f"pca-{fitted.n_components_}", lambda x: fitted.transform(x.flatten(1).double().numpy()) / unit)


def network(extractor: Callable[[Tensor], Any]) -> Features:
    """A user's network or function from rows [n, *shape] to features [n, D], by its `name`, else that of its class.

    A module is in the mode of evaluation meanwhile, and gets rows where it is, in its precision.

    Raises:
        BadInput: for something that cannot be called.
    """
    if not callable(extractor):
        rule = "must be a function or a network from rows [n, *shape] to features [n, D]"
        raise BadInput("extractor", type(extractor).__name__, rule)
    module = extractor if isinstance(extractor, nn.Module) else None
    first = next(module.parameters(), None) if module is not None else None

    def of(x: Tensor) -> Any:
        with evaluating(module):
            return extractor(x if first is None else x.to(first.device, first.dtype))

    own = getattr(extractor, "name", None) or getattr(extractor, "__name__", None)
    return Features(own if isinstance(own, str) else type(extractor).__name__, of)


def usual(rows: Tensor, count: int) -> Features:
    """Where the user gives none: a row's entries where they are few, else principal components of the rows.

    Args:
        rows: What components are fitted to, [n, *shape]: training rows.
        count: Rows that will be compared on either side; ten for each feature.
    """
    components = min(MOST_COMPONENTS, max(2, count // ROWS_PER_COMPONENT))
    return entries() if rows[0].numel() <= components else principal(rows, components)


def inception(weights: str | os.PathLike[str]) -> Features:
    """The 2048 pool features of the Inception network of the published FID, for images [n, 1 or 3, H, W] of bytes.

    Through torchmetrics and torch-fidelity, with the resizing of the original, on a GPU where there is one. Nothing is
    downloaded: the file has to be there, and is read only after its SHA-256 has been found to be the published one.

    Reference: Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, GANs Trained by a Two Time-Scale Update Rule
    Converge to a Local Nash Equilibrium, 2017.

    Args:
        weights: The file `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity's release 0.2.0 (the same bytes
            as pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`).

    Raises:
        BadInput: for a file that is not there, or holds other bytes.
        MissingExtra: without torchmetrics, torch-fidelity and the torchvision that it imports.
    """
    data = read_bytes(weights, INCEPTION_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != INCEPTION_SHA256:
        rule = "is not the published Inception network, and distances over another one are no FID"
        raise BadInput("weights", f"SHA-256 {found[:8]}...", rule, f"give {INCEPTION_FILE}")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        exactly: Any = io.BytesIO(data)  # what was checked, whatever becomes of the file meanwhile
        metric = FrechetInceptionDistance(INCEPTION_FEATURES, feature_extractor_weights_path=exactly, antialias=False)
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit its torch raises the second
        raise MissingExtra("torchmetrics with torch-fidelity and torchvision", "metrics", "FID") from error

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pool = metric.inception.to(device)

    def of(images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
            got = f"{images.dtype} of shape {tuple(images.shape)}"
            raise BadInput("images", got, "must be bytes [n, 1 or 3, H, W]", "scale to 0..255 and .byte()")
        return pool(images.expand(-1, 3, -1, -1).contiguous().to(device))

    return Features(f"inception-{INCEPTION_FEATURES}", of)
