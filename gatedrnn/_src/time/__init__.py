"""Recurrences over time: the engine, its public functions, and how gradients run back."""
