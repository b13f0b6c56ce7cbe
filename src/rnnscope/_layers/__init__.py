"""From a module of torch.nn to its structure and weights, and the one loop over time."""
