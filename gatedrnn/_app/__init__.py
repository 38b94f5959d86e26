"""The program `gatedrnn`: training, sampling and the check of the hand-derived rules."""
