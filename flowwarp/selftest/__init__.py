"""The self-test of ``flowwarp doctor --full``: exactness, determinism and fault injection."""
