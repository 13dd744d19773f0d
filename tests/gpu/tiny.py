"""Networks of the small form, for which a processor needs next to no time."""

from typing import Any

SIDE = 16
"""Side of its pictures, in pixels."""
TINY: dict[str, dict[str, Any]] = {
    "dcgan": {"width": 8},
    "cgan": {"width": 8},
    "biggan": {"width": 4},
    "stylegan2": {"channel_base": 256, "channel_max": 16, "latent": 16, "style": 16, "path_length": 2.0},
    "r3gan": {"width": 16, "width_max": 16},
    "pix2pix": {"width": 8, "patch_width": 8, "patch_halvings": 1},
    "cyclegan": {"width": 4, "blocks": 1, "patch_width": 8, "patch_halvings": 1, "pool": 8},
    "stargan": {"width": 4, "blocks": 1, "critic_width": 8},
    "stargan2": {"width": 4, "width_max": 8, "hidden": 16},
}
"""Settings of each family."""
