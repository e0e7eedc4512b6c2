"""What learns and how: classifier, batches, augmentation, the loop, checkpoints, the search for a rate."""
