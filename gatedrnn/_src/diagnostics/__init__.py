"""What a recurrent network does: gradients, Jacobians, loss surfaces, gates over time."""
