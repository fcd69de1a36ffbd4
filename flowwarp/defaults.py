"""Numbers that the command line shows, without torch."""

TEMPERATURE = 0.6  # of codes; warmer, figures are patched together of what hardly fits
DETAIL = 0.3  # temperature of the digits of a code after its first
TOP_P = 0.9  # codes of the likeliest, which have this probability together
GUIDANCE = 2.0  # how much the prompt is stressed
MOST_SCALE = 10_000  # of logits: temperature, detail and guidance (``flowwarp.models.gpt.MOST``)
PLAUSIBLE = 0.05  # codes that have this share of the likeliest one's chance before it is stressed
BEST = 4  # videos of a prompt, to choose from
BEGINNINGS = 4  # for each of them, of which the best go on
REWRITES = 4  # ways in which the lower half of the best is written anew before they go on
STEPS = 1  # of the upsampler, a frame
CANDIDATES = 80  # sketches of a prompt, shared out among its videos; a fraction of their time
FPS = 12  # of what is made
MOST_SEED = 2**32 - 1  # a larger one says the same as a smaller one: generators drop its bits
