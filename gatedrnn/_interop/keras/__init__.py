"""keras: its layers, cells and models."""
