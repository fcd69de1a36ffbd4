"""Visualisation: flow and video as image tensors, (B, 3, H, W) RGB in [0, 1]."""
