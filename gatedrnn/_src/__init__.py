"""The library, which imports nothing but JAX and NumPy."""
