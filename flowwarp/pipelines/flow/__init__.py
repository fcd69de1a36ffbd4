"""Flow of two frames, of whole clips, and frame interpolation."""
