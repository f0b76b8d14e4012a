"""Measurements beside plain PyTorch: the training step, and ways to deploy a network."""
