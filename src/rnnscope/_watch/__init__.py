"""``watch``: every call of every recurrent layer inside a model."""
