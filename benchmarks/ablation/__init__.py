"""The claims of the published BigJump method, and how each of their variants is trained."""
