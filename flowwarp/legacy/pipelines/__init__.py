"""Video from a prompt, a caption from video, and how good both are."""
