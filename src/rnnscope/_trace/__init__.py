"""``trace``: a call of a layer, with every number in it and what can be asked of them."""
