"""The acceptance test of a bundle: normal recordings and faults mixed into them, through the live rule."""
