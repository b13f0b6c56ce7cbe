"""A store: a group of Zarr 3 whose shards are groups inside it, with what it was recorded from.

zarr.json                    the settings, the digests of the weights, the version of this form
batches-00000000-00000041/   a shard: see ``shard``
journal/00000042.rows        batches that are no shard yet
skipped/00000043.json        batches that the model refused, with the reason
complete.json                the number of batches, once all are there
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rnnscope._corpus.digests import changed_weights
from rnnscope._corpus.disk.description import BatchFacts, LayerForm
from rnnscope._corpus.disk.folder import DESCRIPTION, Folder, told
from rnnscope._corpus.disk.journal import JournalFile
from rnnscope._corpus.disk.sealed import sealed, unsealed
from rnnscope._corpus.disk.shard import KEY, PREFIX, Shard, read_shard
from rnnscope._escaping import printable
from rnnscope.errors import FileError

__all__ = ["FORMAT", "Origin", "Store"]

FORMAT = 1
JOURNAL, SKIPPED, COMPLETE = "journal", "skipped", "complete.json"


@dataclass(frozen=True)
class Origin:
    """What a store was recorded from: the model's class, digests of its weights by name, and the
    settings by the names of ``record``'s arguments; and the layers that were watched, reached or
    not."""

    model: str
    training: bool
    weights: Mapping[str, str]
    settings: Mapping[str, Any]
    layers: tuple[str, ...] = ()

    def difference(self, earlier: Origin) -> str | None:
        """What forbids to go on with what was recorded earlier; None where nothing does."""
        if self.model != earlier.model:
            return f"the model is {self.model}, and was {earlier.model}"
        changed = changed_weights(earlier.weights, self.weights)
        if changed:
            return f"other weights: {changed}"
        if self.training != earlier.training:
            words = ("eval", "train")
            return (
                f"the model is in {words[self.training]} mode, and was in "
                f"{words[earlier.training]} mode"
            )
        for name in dict.fromkeys((*earlier.settings, *self.settings)):
            before, now = earlier.settings.get(name), self.settings.get(name)
            if before != now:
                return f"another setting: {name} is {now!r}, and was {before!r}"
        return None


@dataclass
class Store:
    """The store at a place, as it is now. Damaged shards stand in ``damaged``, with the reason."""

    place: Folder
    origin: Origin
    version: str
    shards: list[Shard] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)

    # making and finding ----------------------------------------------------------------------

    @classmethod
    def create(cls, place: Folder, origin: Origin, version: str) -> Store:
        """A new store; raises ``FileError`` where the place cannot be written."""
        facts = {
            "format": FORMAT,
            "version": version,
            "model": origin.model,
            "training": origin.training,
            "weights": dict(origin.weights),
            "settings": dict(origin.settings),
            "layers": list(origin.layers),
        }
        group = {"zarr_format": 3, "node_type": "group", "attributes": sealed({KEY: facts})}
        with told("write", place.text):
            place.write(DESCRIPTION, json.dumps(group, indent=1).encode())
        return cls(place, origin, version)

    @classmethod
    def find(cls, place: Folder) -> Store | None:
        """The store at a place; None where there is nothing, or an empty folder.

        Raises ``FileError`` for a place that holds anything else, and for a store of a newer form.
        """
        content = place.read(DESCRIPTION)
        if content is None:
            entries = [name for name in place.names() if not name.startswith(".")]
            if place.exists() and (entries or not _is_folder(place)):
                raise FileError(
                    f"{place.text} exists and is no store of rs.record: name a path where nothing "
                    f"is, or a store"
                )
            return None
        try:
            attributes = json.loads(content)["attributes"]
            facts = attributes[KEY]
            written = facts["format"]
        except (ValueError, LookupError, TypeError) as error:
            raise FileError(
                f"{place.text} exists and is no store of rs.record: its {DESCRIPTION} does not "
                f"say {KEY!r}"
            ) from error
        if not isinstance(written, int) or written > FORMAT:
            raise FileError(
                f"{place.text} was written by a newer rnnscope ({facts.get('version')}, form "
                f"{written}); this one reads form {FORMAT}: install the newer one"
            )
        try:
            unsealed(attributes, KEY)
        except ValueError as error:
            raise FileError(f"{place.text} is damaged: {DESCRIPTION}: {error}") from error
        try:
            origin = Origin(
                facts["model"],
                facts["training"],
                facts["weights"],
                facts["settings"],
                tuple(facts.get("layers", ())),
            )
            return cls(place, origin, facts["version"])
        except (LookupError, TypeError) as error:
            raise FileError(f"{place.text} is damaged: {DESCRIPTION} lacks {error}") from error

    def look(self) -> Store:
        """Read what the shards say; the same store."""
        self.shards, self.damaged = [], {}
        for name in self.place.names():
            if not name.startswith(PREFIX):
                continue
            try:
                self.shards.append(read_shard(self.place, name))
            except FileError as error:
                self.damaged[name] = str(error)
        return self

    # what it holds ---------------------------------------------------------------------------

    @property
    def forms(self) -> dict[str, LayerForm]:
        """The recorded layers by name."""
        return {module: form for shard in self.shards for module, form in shard.forms.items()}

    @property
    def batches(self) -> list[BatchFacts]:
        """All batches that are in shards, in order."""
        return sorted((b for s in self.shards for b in s.batches), key=lambda b: b.number)

    @property
    def skipped(self) -> dict[int, str]:
        """Batches that the model refused, with the reason."""
        reasons = {}
        for name in self.place.names(SKIPPED):
            content = self.place.read(f"{SKIPPED}/{name}")
            if name.endswith(".json") and content is not None:
                facts = self._note(f"{SKIPPED}/{name}", content, "batch", "reason")
                reasons[int(facts["batch"])] = str(facts["reason"])
        return reasons

    @property
    def expected(self) -> int | None:
        """The number of batches, once all are there; None before."""
        content = self.place.read(COMPLETE)
        return None if content is None else int(self._note(COMPLETE, content, "batches")["batches"])

    def _note(self, name: str, content: bytes, *names: str) -> dict[str, Any]:
        """A small file, as data; raises ``FileError`` where it is damaged."""
        try:
            return unsealed(json.loads(content), *names)
        except ValueError as error:
            raise FileError(
                f"{self.place.text}: {name} is damaged ({error}): remove it and run rs.record "
                f"again, which writes it anew"
            ) from error

    @property
    def journaled(self) -> int:
        """How many batches are in the journal, and no shard yet."""
        return sum(name.endswith(".rows") for name in self.place.names(JOURNAL))

    def missing(self) -> list[int]:
        """Batches below the last, or below the number of all, that are neither there nor
        skipped."""
        there = {batch.number for batch in self.batches} | set(self.skipped)
        end = max((self.expected or 0, *(number + 1 for number in there)))
        return [number for number in range(end) if number not in there]

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.nbytes for shard in self.shards)

    # notes -----------------------------------------------------------------------------------

    def skip(self, number: int, reason: str) -> None:
        """Note a batch that the model refused."""
        content = json.dumps(sealed({"batch": number, "reason": printable(reason)}))
        with told("write", self.place.text):
            self.place.write(f"{SKIPPED}/{number:08d}.json", content.encode())

    def accept(self, number: int) -> None:
        """A batch that was skipped before is there now."""
        self.place.remove(f"{SKIPPED}/{number:08d}.json")

    def complete(self, batches: int) -> None:
        """All batches are there."""
        with told("write", self.place.text):
            self.place.write(COMPLETE, json.dumps(sealed({"batches": batches})).encode())

    # the journal -----------------------------------------------------------------------------

    def journal_name(self, number: int) -> str:
        """The file of a batch."""
        return f"{JOURNAL}/{number:08d}.rows"

    def journal(self, recorded: Iterable[int]) -> list[JournalFile]:
        """The batches in the journal, in order; what was cut, or is in a shard, is removed."""
        shards = set(recorded)
        entries = []
        for name in self.place.names(JOURNAL):
            if not name.endswith(".rows"):
                continue
            try:
                entry = JournalFile(self.place.fetch(f"{JOURNAL}/{name}"))
            except ValueError:
                self.place.remove(f"{JOURNAL}/{name}")
                continue
            if entry.facts.number in shards:
                self.place.remove(f"{JOURNAL}/{name}")
                continue
            entries.append(entry)
        return entries


def _is_folder(place: Folder) -> bool:
    return "://" in place.text or Path(place.text).is_dir()
