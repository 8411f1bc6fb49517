"""Objectives: functions of a VAEOutput; they know no networks."""
