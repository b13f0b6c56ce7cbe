"""What is approximate on purpose: rounded weights, inputs and states, fast functions.

Enters: a model, with or without mistakes, and what a candidate returned.
Leaves: the approximations that remove the difference, each a change of the model, with its words.
"""
