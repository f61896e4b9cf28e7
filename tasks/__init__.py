"""Hands and senses: everything that touches the world, the disk or a model."""
