"""What the trainer and the daemon must agree on; the only part of the daemon that the trainer may import."""
