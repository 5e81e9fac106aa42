"""Timings, each beside a lower bound or other libraries, and accuracy: of methods, and of the parts of BigJump."""
