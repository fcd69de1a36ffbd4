"""Metrics of flow and video: tensors in, numbers out."""
