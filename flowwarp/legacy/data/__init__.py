"""Text to video as it was before ``train-video``: data."""
