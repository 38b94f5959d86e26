"""Generation of sequences, one step after another, from any step function."""
