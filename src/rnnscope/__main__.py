"""``python -m rnnscope``: the same as the command ``rnnscope``."""

from rnnscope._cli.commands import main

if __name__ == "__main__":
    main()
