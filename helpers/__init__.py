"""Translate the embeddings of one frozen encoder into the space of another."""
