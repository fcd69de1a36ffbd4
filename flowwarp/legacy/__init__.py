"""Text to video as it was before ``train-video``: kept until the new weights replace it."""
