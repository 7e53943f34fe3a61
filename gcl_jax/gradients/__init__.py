"""Per-image gradient scores and gradient-based training constraints."""

from gcl_jax.gradients import gradcon as gradcon
from gcl_jax.gradients import per_sample as per_sample
