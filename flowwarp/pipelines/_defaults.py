"""Numbers that the command line shows, without torch."""

TOP_P = 0.8  # codes of the likeliest, which have this probability together
GUIDANCE = 4.0  # how much the prompt is stressed
CANDIDATES = 64  # sketches of a prompt, to choose from; each takes a fraction of a video's time
