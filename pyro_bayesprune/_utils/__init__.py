"""Helpers of all packages: random streams, files, checks, provenance, progress, tables."""
