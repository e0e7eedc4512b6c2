"""Makes the bundle that ships with the program: a small student that is distilled from an AudioSet network."""
