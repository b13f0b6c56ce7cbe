"""Public bugs of ports of recurrent layers, restated: one file for each, in code of our own.

Each file has the address of its ``THREAD``, what people ``SAW``, what was ``WRONG``; ``compared()``
gives the verdict on the restated bug, which must name the causes ``NAMED`` and say ``SAYS``;
``AGREES`` where the data are such that nothing can be told.
``docs/museum.py`` makes ``docs/museum.md`` of them.
"""
