"""``python -m rnnscope``: the same as the command ``rnnscope``."""

from rnnscope.cli import main

if __name__ == "__main__":
    main()
