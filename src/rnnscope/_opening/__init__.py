"""From a layer's own outputs to every gate of every step, with the proof.

Enters: a call of a layer as it happened: inputs, weights, outputs.
Leaves: all values inside, their largest deviation from the layer, and what rounding allows.
"""
