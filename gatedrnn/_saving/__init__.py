"""Layers and their parameters in one file: a description, arrays, and writing as a whole."""
