"""Choices on their way out of a program: values, where they are made, and how branches are joined."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.tree_util import register_dataclass

from ppl.choicemap import Masked, Path

Guards = frozenset[tuple[int, int, int]]
"""Branches (cond, number, count) of mapped conds, all of which must be taken."""

ALWAYS: frozenset[Guards] = frozenset({frozenset()})


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Record:
    """A choice as it leaves a body.

    Attributes:
        value: Its value.
        mask: Where it is made (over the axes of lanes and scans), or None: everywhere.
        log_prob: Its log density over the axes of lanes and scans (and those of its batch), or None: not asked for.
        lead: Number of axes of lanes and scans.
        cover: The guards under which it is made; the empty guard means always.
    """

    value: Any
    mask: Any
    log_prob: Any
    lead: int = dataclasses.field(metadata={"static": True})
    cover: frozenset[Guards] = dataclasses.field(metadata={"static": True})

    def leaf(self) -> Any:
        """Return what the trace shows."""
        return self.value if self.mask is None else Masked(self.value, self.mask)

    def made(self) -> Any:
        """Return where the choice is made, always as an array."""
        return jnp.ones(self.value.shape[: self.lead], bool) if self.mask is None else self.mask


def spread(mask: Any, ndim: int) -> Any:
    """Give a mask over leading axes as many axes as a value has."""
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))


def zero_where_idle(value: Any, mask: Any) -> Any:
    """Return the value where it is made, else 0."""
    return jnp.where(spread(mask, value.ndim), value, jnp.zeros_like(value))


def join(first: Record, second: Record) -> Record:
    """Unite two choices at one address, made in different branches."""
    value = jnp.where(spread(second.made(), second.value.ndim), second.value, first.value)
    log_prob = None if first.log_prob is None else first.log_prob + second.log_prob
    cover = _simplify(first.cover | second.cover)
    return Record(value, None if cover == ALWAYS else first.made() | second.made(), log_prob, first.lead, cover)


def _simplify(cover: frozenset[Guards]) -> frozenset[Guards]:
    """Drop a cond from the guards once all of its branches are covered."""
    for guard in cover:
        for branch in guard:
            identity, _, count = branch
            siblings = {guard - {branch} | {(identity, number, count)} for number in range(count)}
            if siblings <= cover:
                return _simplify(cover - siblings | {guard - {branch}})
    return cover


def pad(path: Path, branches: list[dict[Path, Record]], record: Record | None) -> Record:
    """Give one branch's choice at `path` (None: it makes none) the structure that all branches share."""
    present = [entry[path] for entry in branches if path in entry]
    like = present[0]
    always = len(present) == len(branches) and all(r.mask is None for r in present)
    cover = ALWAYS if always else frozenset()
    lanes = like.value.shape[: like.lead]
    if record is None:
        log_prob = None if like.log_prob is None else jnp.zeros(like.log_prob.shape, like.log_prob.dtype)
        return Record(jnp.zeros(like.value.shape, like.value.dtype), jnp.zeros(lanes, bool), log_prob, like.lead, cover)
    dtype = None if like.log_prob is None else jnp.result_type(*(r.log_prob.dtype for r in present))
    log_prob = None if record.log_prob is None else record.log_prob.astype(dtype)
    return Record(record.value, None if always else record.made(), log_prob, like.lead, cover)
