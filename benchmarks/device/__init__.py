"""A short run on a lent device: the tests that wait for a GPU, the grid, a flag, a profile.

One process of its own measures each stage and hands over a row at a time, so that a crash, a hang
or a spoilt device costs one row. The process that writes the rows down never touches the device.
"""
