"""The pictures of the diagnostics. matplotlib is imported where one is drawn, not before."""
