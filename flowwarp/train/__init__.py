"""Training: one loop for every network, runs that resume bit for bit."""
