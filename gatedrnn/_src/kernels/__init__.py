"""Kernels: one program on the device for all steps of a loop."""
