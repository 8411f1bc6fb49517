"""Objectives: functions of a VAEOutput, which know nothing of how a model came to it."""

from .base import Objective
from .build import OBJECTIVES, build_objective
from .correlation import Covariance, DensityRatio, TotalCorrelation
from .critic import Critic
from .divergence import CodeCritic, Discrepancy
from .elbo import ELBO
from .importance import ImportanceWeighted
from .penalised import Charge, Penalised, Penalty
from .perceptual import Perceptual, RowCritic

__all__ = [
    "ELBO",
    "OBJECTIVES",
    "Charge",
    "CodeCritic",
    "Covariance",
    "Critic",
    "DensityRatio",
    "Discrepancy",
    "ImportanceWeighted",
    "Objective",
    "Penalised",
    "Penalty",
    "Perceptual",
    "RowCritic",
    "TotalCorrelation",
    "build_objective",
]
