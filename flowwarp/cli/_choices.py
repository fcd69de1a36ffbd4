"""What options of several commands may be, without torch."""

FORMATS = ("flo", "png", "pfm", "npy", "npz")  # of flow
QUALITIES = ("fast", "balanced", "best")  # see flowwarp/pipelines/flow/estimate.py
