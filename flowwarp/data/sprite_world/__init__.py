"""The world of sprites: captioned clips of Liberated Pixel Cup characters, and the words for it."""
