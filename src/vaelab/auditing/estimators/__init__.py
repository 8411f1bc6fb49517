"""Estimators of the likelihood and importance-weighted objectives, against models whose log p(x) is known."""
