"""The networks: backbones and their blocks."""
