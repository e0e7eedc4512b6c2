"""Labelled tracks: where they come from, what is in the files, how they are split, their sound as clips."""
