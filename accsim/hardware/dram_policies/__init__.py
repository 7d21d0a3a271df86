"""Controllers of other simulators, under their own names: what they do is the reference."""
