"""flax: linen and nnx; what the modules of `gatedrnn.flax` share."""
