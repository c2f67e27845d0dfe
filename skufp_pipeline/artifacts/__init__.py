"""Everything the store keeps: its name, its key, its files, and the typed form it is read and written in."""
