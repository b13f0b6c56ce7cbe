"""What ``rnnscope`` alone prints: which command answers which question. It needs no torch."""

from __future__ import annotations

__all__ = ["QUESTIONS", "which_command"]

QUESTIONS: dict[str, dict[str, str]] = {
    "Learn": {
        "What happens to 3, 4, 5?": "rnnscope explain 3 4 5",
        "One number inside an LSTM?": (
            "rnnscope explain 3 4 5 --cell lstm --hidden 2 --time 2 --unit 1"
        ),
        "What follows if I change one?": "rnnscope view 3 4 5 -o page.html",
        "A sheet to solve by hand?": "rnnscope worksheet 3 4 5 --cell lstm -o sheet.html",
        "What are output, h_n and c_n?": "rnnscope shapes --cell lstm --layers 2 --bidirectional",
        "How many parameters?": (
            "rnnscope shapes --cell gru --input-size 10 --hidden 20 --about parameters"
        ),
    },
    "Port: yours against PyTorch's": {
        "Which layers are in a file?": "rnnscope show model.pt",
        "How do I move them to Keras?": "rnnscope convert model.pt model.h5 --layout keras",
        "Do they agree? If not, why?": (
            "rnnscope compare --weights model.pt --input x.npy --candidate mine.npz"
        ),
        "And in a script or a test?": "rs.compare(mine, layer), rs.assert_agrees(mine, layer)",
    },
    "Look inside your own model": {
        "One unit of a trained layer?": (
            "rnnscope explain --weights model.pt --input x.npy --unit 0"
        ),
        "Its gates, as tensors?": 'tr = rs.trace(layer, x); tr["f"]',
        "Why is a number what it is?": 'print(tr.explain("f", batch=0, time=-1, unit=0))',
        "All layers inside a model?": "with rs.watch(model) as seen: model(x)",
    },
    "Record a data set": {
        "Every gate of every step, on disk?": 'rs.record(model, batches, "gates.zarr")',
        "What does the store hold?": "rnnscope record-info gates.zarr --statistics",
    },
    "Check this machine": {
        "Are its own layers right?": "rnnscope check",
        "And on its GPU?": "rnnscope check --device cuda",
    },
}
"""By what the reader wants: the question, and the command, or the line of Python, that answers."""


def which_command(version: str) -> str:
    """The table of questions and commands."""
    width = max(len(question) for part in QUESTIONS.values() for question in part)
    lines = [f"{version}: which command answers which question"]
    for title, part in QUESTIONS.items():
        lines += ["", title]
        lines += [f"  {question:<{width}}   {answer}" for question, answer in part.items()]
    return "\n".join(
        [
            *lines,
            "",
            "Lines with rs are Python: import rnnscope as rs. Files and models are your own.",
            "rnnscope --help lists all commands, rnnscope explain --help the options of one.",
        ]
    )
