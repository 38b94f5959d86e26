"""Diagnostics of recurrent networks: gradients, Jacobians, loss surfaces, gates over time."""
