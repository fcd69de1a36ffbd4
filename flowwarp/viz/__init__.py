"""Making flow visible: tensors in, image tensors out; nothing is written here."""
