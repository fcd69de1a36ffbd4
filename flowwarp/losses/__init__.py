"""The terms of unsupervised training: one number for each example; none keeps a schedule."""
