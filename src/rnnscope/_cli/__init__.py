"""The command ``rnnscope``: arguments in, public functions, text out."""
