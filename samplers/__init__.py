"""Samplers: turn noise into data along a velocity. Knows velocities, not networks.

Time runs from t = 1 (noise) to t = 0 (data); states are float64, velocities are asked in the
dtype of the noise.
"""

from samplers.interpolant import (
    INTERPOLANTS,
    Coefficients,
    CosineInterpolant,
    Interpolant,
    InterpolantName,
    LinearInterpolant,
    score_from_velocity,
)
from samplers.noise import Stream, draw_labels, initial_noise, keyed_generator, step_noise
from samplers.ode import ADAPTIVE_METHODS, FIXED_STEP_METHODS, ODE_METHODS, sample_ode
from samplers.schedule import GuidanceInterval
from samplers.sde import NormalFn, sample_sde
from samplers.velocity import ModelFn, VelocityFn, classifier_free_velocity

__all__ = [
    "ADAPTIVE_METHODS",
    "FIXED_STEP_METHODS",
    "INTERPOLANTS",
    "ODE_METHODS",
    "Coefficients",
    "CosineInterpolant",
    "GuidanceInterval",
    "Interpolant",
    "InterpolantName",
    "LinearInterpolant",
    "ModelFn",
    "NormalFn",
    "Stream",
    "VelocityFn",
    "classifier_free_velocity",
    "draw_labels",
    "initial_noise",
    "keyed_generator",
    "sample_ode",
    "sample_sde",
    "score_from_velocity",
    "step_noise",
]
