"""The bundle: manifest, verified files, and the choice of what is run."""
