"""One side effect per module. Effects do not know each other: the pipeline combines them."""
