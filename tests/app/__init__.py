"""Tests of the program `gatedrnn`."""
