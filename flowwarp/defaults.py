"""Defaults, limits and choices that ``--help`` shows. Imports no torch, so that help is fast."""

from typing import Literal, get_args

Quality = Literal["fast", "balanced", "best"]  # of flow, see `flowwarp.pipelines.flow.estimate`
QUALITIES: tuple[Quality, ...] = get_args(Quality)

MAX_SEED = 2**32 - 1  # random generators use the lower 32 bits of a seed

# Sampling of video (`flowwarp.legacy.models.gpt.Sampling`).
TEMPERATURE = 0.6  # of codes; above, objects become a patchwork of parts that do not fit
DETAIL = 0.3  # factor of the temperature for the digits of a code after its first
TOP_P = 0.9  # nucleus sampling: the likeliest codes whose probabilities sum to this
GUIDANCE = 2.0  # classifier-free guidance
MAX_SCALE = 10_000  # of temperature, detail and guidance (``flowwarp.legacy.models.gpt.MOST``)
PLAUSIBLE = 0.05  # least probability of a code, as a share of the likeliest one's

# Search for the best video of a prompt.
BEST = 4  # videos of a prompt, of which one is chosen
BEGINNINGS = 4  # candidates for the beginning of each video
REWRITES = 4  # candidates for the lower half of the best beginning
CANDIDATES = 80  # sketches of a prompt, shared among its videos
STEPS = 1  # of the upsampler for each frame
FPS = 12  # frames a second of the written video
