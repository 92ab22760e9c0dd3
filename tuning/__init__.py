"""Kernel settings for many connections: planned, applied, verified, taken back. Standard library only."""
