"""Text to video: prompts, generation, upsampling, descriptions and their evaluation."""
