"""Flow of two frames, of whole clips, and the frames between."""
