"""Weights from and to other libraries, a module for each; `gatedrnn.interop` is the public side."""
