"""Recursive networks: trees as arrays, cells that compose children, and the fold over a forest."""
