"""Text to video: prompts, generation, upsampling and their evaluation."""
