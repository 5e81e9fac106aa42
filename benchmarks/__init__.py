"""Timings, always beside a floor or a peer, and comparisons of accuracy: of methods, and of the parts of BigJump."""
