"""The networks: each module reads from its config through its blocks to the net."""
