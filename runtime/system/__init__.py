"""The machine underneath: files written whole or not at all, locks, clocks, the board."""
