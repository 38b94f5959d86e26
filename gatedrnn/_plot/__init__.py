"""Pictures of the diagnostics. matplotlib is imported where a picture is drawn, not before."""
