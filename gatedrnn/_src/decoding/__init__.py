"""Making a sequence, one step after another, from any step function."""
