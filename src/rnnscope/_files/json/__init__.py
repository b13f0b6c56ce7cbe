"""Models in JSON: .nam of Neural Amp Modeler, .json of RTNeural and GuitarML.

Enters: a path, or layers.
Leaves: layers, with the head and initial states of their model; the text of a file.
"""

from rnnscope._files.json.file import JSON_ENDINGS, read_json
from rnnscope._files.json.layers import layers_of_json
from rnnscope._files.json.writer import JsonLayer, json_of, refuse_directions, refuse_layout

__all__ = [
    "JSON_ENDINGS",
    "JsonLayer",
    "json_of",
    "layers_of_json",
    "read_json",
    "refuse_directions",
    "refuse_layout",
]
