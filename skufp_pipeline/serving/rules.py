"""An operator's rules for single SKUs: pinned to the front, buried, or hidden.

A pin adds to the cosine of a SKU and a bury takes from it, so that both move a SKU among the answers that it
belongs to and do not show it to a query that it has nothing to do with. A hidden SKU is in no answer.
Confidence, verdict and the item that is chosen are those of the search without pins and buries.

By default a SKU is moved by `usual_bias` of the index. On the demo's index that is 0.21, and the first answer
to a photo leads the 50th by 0.21 (the median of 300 photos; 10% to 90%: 0.14 to 0.36): a pin puts one of the
50 best answers first in half of the queries.
"""

import threading
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from skufp_pipeline.errors import UserError
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.settings import Settings
from skufp_pipeline.store import ArtifactStore

FILE = "serving/rules.json"
MOST = 10_000  # rules
NEIGHBOUR, ASKED = 20, 64  # of `usual_bias`


class Rule(Settings):
    """What happens to a SKU; `bias` says how far it is moved, as a difference of cosines."""

    rule: Literal["pin", "bury", "hide"]
    bias: Annotated[float, Field(gt=0, le=4)] | None = None

    @model_validator(mode="after")
    def _hidden_is_not_moved(self) -> Self:
        if self.rule == "hide" and self.bias is not None:
            raise ValueError("a hidden SKU is in no answer, so it has no bias")
        return self


class RulesFile(Settings):
    """The content of the file: rules by SKU."""

    rules: Annotated[dict[str, Rule], Field(max_length=MOST)] = {}


class Applied(NamedTuple):
    """An engine with rules.

    Attributes:
        moved: pin or bury, by SKU.
        unused: SKUs with a rule that does nothing, sorted: the index lacks them, or it is of pictures, whose
            scores take no biases, and they would be pinned or buried.
    """

    engine: QueryEngine
    moved: Mapping[str, Literal["pin", "bury"]]
    unused: tuple[str, ...]


class Rules:
    """The rules in the data root, which every replica reads.

    Attributes:
        problem: why the file could not be read the last time; the rules before it stay in force.

    Raises:
        UserError: the file can't be read.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.problem: str | None = None
        self._text = store.read_pointer(FILE)
        self._rules = _parsed(self._text, store)

    @property
    def by_sku(self) -> Mapping[str, Rule]:
        """The rules in force, sorted by SKU."""
        return self._rules

    def read_again(self) -> bool:
        """Reads the file if it has changed; returns whether other rules are in force now."""
        with self._lock:
            text = self._store.read_pointer(FILE)
            if text == self._text:
                return False
            before, self._text = self._rules, text
            try:
                self._rules, self.problem = _parsed(text, self._store), None
            except UserError as error:
                self.problem = str(error)
            return self._rules != before

    def put(self, sku_id: str, rule: Rule) -> None:
        """Writes the rule of a SKU; raises UserError if the file can't be read or there are too many."""
        self._write(sku_id, rule)

    def delete(self, sku_id: str) -> bool:
        """Removes the rule of a SKU; returns whether it had one. Raises UserError as `put`."""
        return self._write(sku_id, None)

    def _write(self, sku_id: str, rule: Rule | None) -> bool:
        """Changes what the file holds at this moment, which another replica may have written."""
        with self._lock:
            kept = dict(_parsed(self._store.read_pointer(FILE), self._store))
            had = kept.pop(sku_id, None) is not None
            if rule is not None:
                kept[sku_id] = rule
            if len(kept) > MOST:
                raise UserError(f"there are {MOST:,} rules already; delete some that are no longer used")
            if had or rule is not None:
                text = RulesFile(rules=dict(sorted(kept.items()))).model_dump_json(indent=1)
                self._store.write_pointer(FILE, text)
            return had


def apply_rules(engine: QueryEngine, rules: Mapping[str, Rule]) -> Applied:
    """An engine that answers by the rules; without rules that count it is `engine` itself.

    The rows of its index are those of the engine's, so that words, patches and pictures still belong to them.
    """
    unused = tuple(sorted(engine.index.known_skus(rules)[1].to_list()))
    known = {sku_id: rule for sku_id, rule in rules.items() if sku_id not in set(unused)}
    hidden = [sku_id for sku_id, rule in known.items() if rule.rule == "hide"]
    moved = {sku_id: rule for sku_id, rule in known.items() if rule.rule != "hide"}
    if isinstance(engine.index, ImageIndex):
        unused, moved = tuple(sorted([*unused, *moved])), {}
    if not hidden and not moved:
        return Applied(engine, {}, unused)
    index = engine.index.remove(hidden) if hidden else engine.index
    if not moved:
        return Applied(engine.over(index), {}, unused)
    ranked = index.with_biases(_biases(index, moved))
    ranked.warm_up()
    named = {sku_id: rule.rule for sku_id, rule in moved.items() if rule.rule != "hide"}
    return Applied(engine.over(index, ranked), named, unused)


def usual_bias(index: FingerprintIndex) -> float:
    """How far a rule without a bias moves a SKU: the median lead of a SKU's nearest neighbour over its 20th,
    of 64 SKUs spread evenly over the index."""
    present = index.present.numbers()
    asked = present[np.linspace(0, len(present) - 1, min(ASKED, len(present))).astype(np.int64)]
    _, scores = index.best(index.fingerprints[asked], NEIGHBOUR + 1)  # the first is the SKU itself
    return float(np.median(scores[:, 1] - scores[:, -1])) if scores.shape[1] > 1 else 0.0


def _biases(index: FingerprintIndex, moved: Mapping[str, Rule]) -> np.ndarray:
    usual = usual_bias(index) if any(rule.bias is None for rule in moved.values()) else 0.0
    biases = index.biases.astype(np.float64)
    names = index.skus["sku_id"]
    for row in index.known_skus(moved)[0].numbers().tolist():
        rule = moved[names[row]]
        size = usual if rule.bias is None else rule.bias
        biases[row] += size if rule.rule == "pin" else -size
    return biases


def _parsed(text: str | None, store: ArtifactStore) -> dict[str, Rule]:
    try:
        return RulesFile().rules if text is None else RulesFile.model_validate_json(text).rules
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{store.root}/{FILE} can't be read: {where}: {first['msg']}; correct it or delete it"
        ) from error
