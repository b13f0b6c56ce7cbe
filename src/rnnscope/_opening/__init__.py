"""From a layer's own outputs to every gate of every step, with the proof that they are right."""
