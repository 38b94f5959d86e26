"""The data of the tasks: generated, or found on every machine; the same from the same seed."""
