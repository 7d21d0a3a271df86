"""The machine, one block a file: first what it is (frozen spec), then what it does (SimPy)."""
