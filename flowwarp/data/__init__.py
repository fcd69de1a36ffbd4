"""What networks learn from and are measured on: clips, synthetic pairs, recipes, augmentation."""
