"""How one pass of one layer is cut into tiles, and the cycles of a tile on the PE array."""
