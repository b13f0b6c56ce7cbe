"""Where the two agree, before why they do not."""
from __future__ import annotations
def agreement(*args): return ()
