"""Timings of what the project claims to be fast: never asserted in tests, always beside a floor or a peer."""
