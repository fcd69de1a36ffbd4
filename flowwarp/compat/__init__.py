"""Old names over ours, so that old code changes only its imports."""
