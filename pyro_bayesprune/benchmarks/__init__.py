"""Comparisons with plain PyTorch: the cost of a training step, and ways to deploy a network."""
