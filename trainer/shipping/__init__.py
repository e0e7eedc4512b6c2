"""From a trained network to a bundle: the graph, its variants, pretrained checkpoints."""
