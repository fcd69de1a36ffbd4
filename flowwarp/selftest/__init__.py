"""What ``flowwarp doctor --full`` measures: exactness, determinism and interrupted runs."""
