"""Constants of a bundle fitted on clips: distance range, amplitude, levels."""
