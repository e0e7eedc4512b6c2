"""Trains, judges and exports model bundles; may import `daemon.core` and nothing else of the daemon."""
