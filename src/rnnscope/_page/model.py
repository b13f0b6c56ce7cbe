"""What stands around the layer in its model: tokens, their embedding, and the readout behind it.

Everything is checked here against the trace, so that the page shows a prediction of this model or
none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rnnscope._page.readout import Readout
from rnnscope._record.traced import Traced
from rnnscope.errors import ShapeError

__all__ = ["TokenModel", "Vocabulary"]

UNKNOWN = ("<unk>", "[unk]", "<oov>")
"""How a vocabulary names the token that stands for all others, in lower case."""
_SPECIAL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""A token that no text spells: <pad>, [CLS]."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens by number, and how a text is split into them."""

    tokens: tuple[str, ...]

    @classmethod
    def of(cls, given: Any, name: str = "vocabulary") -> Vocabulary:
        """From a list of texts, or a dict from texts to numbers 0, 1, 2, …; raises ``TypeError``
        and ``ValueError`` where it is neither.

        >>> Vocabulary.of({"b": 1, "a": 0}).tokens
        ('a', 'b')
        """
        if isinstance(given, Mapping):
            given = _ordered(given, name)
        elif not isinstance(given, Iterable):
            raise TypeError(
                f"{name} must be a list of texts, one for each number of a token, or a dict from "
                f"texts to numbers; got {type(given).__name__}"
            )
        tokens = tuple(given)
        place: dict[str, int] = {}
        for number, token in enumerate(tokens):
            if not isinstance(token, str):
                raise TypeError(f"{name} must hold texts; got {type(token).__name__} at {number}")
            if token in place:
                raise ValueError(
                    f"{name} holds {token!r} at {place[token]} and at {number}: one text must be "
                    f"one number"
                )
            place[token] = number
        if not tokens:
            raise ValueError(f"{name} is empty: give the text of each token")
        return cls(tokens)

    @property
    def split(self) -> Literal["characters", "spaces"]:
        """By characters where every token is one character, but for such as <pad>; else by spaces.

        >>> Vocabulary(("<pad>", "a", " ")).split, Vocabulary(("the", "cat")).split
        ('characters', 'spaces')
        """
        spelt = [token for token in self.tokens if not (_SPECIAL.fullmatch(token) or token == "")]
        return "characters" if spelt and all(len(t) == 1 for t in spelt) else "spaces"

    @property
    def unknown(self) -> int | None:
        """The number of the token that stands for all others, where there is one."""
        numbers = [k for k, token in enumerate(self.tokens) if token.lower() in UNKNOWN]
        return numbers[0] if numbers else None


def _ordered(given: Mapping[Any, Any], name: str) -> list[Any]:
    by_number: dict[int, Any] = {}
    for token, number in given.items():
        try:
            place = number.__index__()
        except AttributeError:
            raise TypeError(
                f"{name} must be a dict from texts to numbers; got {token!r}: {number!r}"
            ) from None
        if place in by_number:
            raise ValueError(f"{name} gives {by_number[place]!r} and {token!r} the number {place}")
        by_number[place] = token
    if sorted(by_number) != list(range(len(by_number))):
        gap = next(k for k in range(len(by_number)) if k not in by_number)
        raise ValueError(
            f"{name} must number its {len(by_number)} tokens 0 to {len(by_number) - 1}; no token "
            f"has {gap}"
        )
    return [by_number[k] for k in range(len(by_number))]


@dataclass(frozen=True)
class TokenModel:
    """Vocabulary, embedding and readout of a traced layer; each may be None.

    ``ids`` (batch, time) are the tokens that the layer read, -1 on padding; None where the input
    is made of no tokens, and then ``untyped`` says why no text can be typed.
    """

    vocabulary: Vocabulary | None = None
    classes: tuple[str, ...] | None = None
    embedding: Tensor | None = None
    readout: Readout | None = None
    ids: Tensor | None = None
    untyped: str = ""

    @classmethod
    def of(
        cls, trace: Traced, readout: Any, vocabulary: Any, classes: Any, embedding: Any
    ) -> TokenModel:
        """From the arguments of ``view``; raises ``TypeError``, ``ValueError`` and ``ShapeError``
        where they do not fit the trace or each other."""
        words = None if vocabulary is None else Vocabulary.of(vocabulary)
        named = None if classes is None else Vocabulary.of(classes, "classes").tokens
        if embedding is not None and words is None:
            raise ValueError("embedding needs the texts of its tokens: give vocabulary=[...] too")
        if classes is not None and readout is None:
            raise ValueError("classes names what a readout predicts: give readout=nn.Linear too")
        head = None if readout is None else Readout.of(readout)
        if head is not None:
            _fits_output(trace, head)
            if named is not None or (words is not None and not head.single):
                what = "vocabulary" if named is None else "classes"
                names = named if named is not None else words.tokens if words else ()
                _fits_classes(head, len(names), what)
                named = names
        if words is None:
            return cls(None, named, None, head)
        table = None if embedding is None else _table(embedding, words)
        ids, untyped = _ids(trace, words, table)
        return cls(words, named, table, head, ids, untyped)

    @property
    def numbers(self) -> int:
        """How many numbers of it a page holds."""
        table = 0 if self.embedding is None else self.embedding.numel()
        return table + (0 if self.readout is None else self.readout.numbers)

    @property
    def texts(self) -> Sequence[str]:
        """The texts of it that a page holds."""
        vocabulary = () if self.vocabulary is None else self.vocabulary.tokens
        classes = () if self.classes is None or self.classes == vocabulary else self.classes
        return (*vocabulary, *classes)

    def labels(self, lengths: Sequence[int]) -> tuple[tuple[str, ...], ...]:
        """The token of each step of each sequence; empty where there are none."""
        if self.vocabulary is None or self.ids is None:
            return ()
        tokens = self.vocabulary.tokens
        return tuple(
            tuple(tokens[k] for k in row[:length])
            for row, length in zip(self.ids.tolist(), lengths, strict=True)
        )


def _fits_output(trace: Traced, readout: Readout) -> None:
    directions = len(trace.directions)
    units = trace["h"].shape[-1]
    if readout.features != units * directions:
        both = f", {units} units of each of both directions" if directions > 1 else ""
        raise ShapeError(
            f"readout must take in_features={units * directions}, which is a step of the layer's "
            f"output{both}; got {readout.features}"
        )


def _fits_classes(readout: Readout, count: int, name: str) -> None:
    if readout.outputs != count:
        instead = (
            "give the texts of all tokens in the order of their numbers, or classes=[...] where "
            "the readout predicts something else than the next token"
            if name == "vocabulary"
            else "give the name of each output in its order"
        )
        raise ShapeError(
            f"{name} must have as many texts as the readout has out_features, {readout.outputs}; "
            f"got {count}: {instead}"
        )


def _table(embedding: Any, vocabulary: Vocabulary) -> Tensor:
    """The rows of an nn.Embedding as it looks them up."""
    kind = type(embedding)
    if not isinstance(embedding, nn.Embedding) or kind.forward is not nn.Embedding.forward:
        raise TypeError(f"embedding must be an nn.Embedding; got {kind.__name__}")
    if embedding.weight.is_meta:
        raise TypeError("embedding is on the device meta, where no number is: load its weights")
    if embedding.num_embeddings != len(vocabulary.tokens):
        raise ShapeError(
            f"vocabulary must have as many texts as the embedding has rows, "
            f"{embedding.num_embeddings}; got {len(vocabulary.tokens)}"
        )
    rows = embedding.weight.detach().to("cpu", copy=True)
    if embedding.max_norm is not None:  # a row is shortened when it is looked up
        every = torch.arange(len(rows), device="cpu")
        torch.embedding_renorm_(rows, every, embedding.max_norm, embedding.norm_type)
    return rows


def _ids(trace: Traced, vocabulary: Vocabulary, table: Tensor | None) -> tuple[Tensor | None, str]:
    """The tokens of which the traced input is made, (batch, time), or why there are none."""
    x = trace.layer_input(0).detach().to("cpu")
    count = len(vocabulary.tokens)
    valid = torch.arange(x.shape[1], device="cpu") < trace.lengths.to("cpu")[:, None]
    if table is None:
        if x.shape[2] != count:
            return None, (
                f"the layer reads {x.shape[2]} numbers a step, and the vocabulary has {count} "
                f"texts: view(..., embedding=model.embedding) tells how a token becomes numbers"
            )
        one = ((x == 1).sum(-1) == 1) & ((x != 0).sum(-1) == 1)
        if not bool((one | ~valid).all()):
            return None, (
                "the layer's input is not one-hot: view(..., embedding=model.embedding) tells how "
                "a token becomes numbers"
            )
        return torch.where(valid, x.argmax(-1), -1), ""
    if table.shape[1] != x.shape[2]:
        raise ShapeError(
            f"embedding must have embedding_dim={x.shape[2]}, as the layer's input; got "
            f"{table.shape[1]}"
        )
    places = _places(table.to(x.dtype))
    ids = torch.full(x.shape[:2], -1, dtype=torch.long, device="cpu")
    for row, time in valid.nonzero().tolist():
        number = places.get(_bits(x[row, time]))
        if number is None:
            raise ValueError(
                f"x at batch {row}, time {time} is no row of the embedding: give the nn.Embedding "
                f"of which the layer's input came, with the weights of that call and nothing in "
                f"between; without embedding= no text can be typed into the page"
            )
        ids[row, time] = number
    return ids, ""


def _places(table: Tensor) -> dict[bytes, int]:
    """The number of each row by its bits; of equal rows the first."""
    places: dict[bytes, int] = {}
    for number, row in enumerate(table):
        places.setdefault(_bits(row), number)
    return places


def _bits(row: Tensor) -> bytes:
    # plus zero: -0.0 is 0.0
    return (row + 0.0).contiguous().view(torch.uint8).numpy().tobytes()
