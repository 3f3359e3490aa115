"""Particle filters, and conditional ones, of programs that are sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl._errors import ControlFlowError
from ppl.choicemap import Masked, Path, show
from ppl.generative import GenerativeFunction
from ppl.methods.resampling import Resampling
from ppl.stochastic.filtering import Cloud, resample
from ppl.stochastic.sequence import Sequenced, sequence
from ppl.transforms.layout import outer_lanes


@dataclasses.dataclass(frozen=True)
class Swarm:
    """Particles that have run through a whole program.

    Attributes:
        choices: Latent choices by path, with a leading axis of particles.
        log_weights: Since the last resampling.
        log_normaliser: The log of the estimate of the normalising constant.
    """

    choices: dict[Path, Any]
    log_weights: jax.Array
    log_normaliser: jax.Array


@dataclasses.dataclass(frozen=True)
class ParticleFilter:
    """A particle filter of a program.

    Attributes:
        gf: The program; its latent choices are made in one scan.
        args: Its arguments.
        observed: Observed choices, by path.
        proposal: Makes the latent choices, in a scan of the same steps; None: the program itself, forward.
        proposal_args: Its arguments.
        particles: Their number.
        scheme: How ancestors are chosen.
        threshold: Relative effective sample size below which they are.
    """

    gf: GenerativeFunction
    args: tuple
    observed: Mapping[Path, Any]
    proposal: GenerativeFunction | None
    proposal_args: tuple
    particles: int
    scheme: Resampling
    threshold: float

    def run(self, retained: Mapping[Path, Any] | None = None) -> Swarm:
        """Run it; if some latent choices are retained, conditionally: they are the first particle's, throughout."""
        return _Pass(self, retained).run()


class _Track:
    """One of the programs that particles run through: the model or its proposal.

    What comes before the scan is run once, if it makes no choice; else by every particle, whose state its values are.
    """

    def __init__(self, program: Sequenced, given: Mapping[Path, Any], weighed: frozenset[Path]):
        self.program, self.given, self.weighed = program, given, weighed
        self.is_shared = all(location[0] >= program.cut for location in program.places)
        self.shared: list = []

    def walk(self, given: Mapping[Path, Any]):
        """Return an interpreter for one particle."""
        return self.program.walk({**self.given, **given}, self.weighed)

    def begin(self) -> None:
        """Run what all particles share."""
        if self.is_shared:
            self.shared, _ = self.program.before(self.walk({}))

    def before(self, given: Mapping[Path, Any]) -> tuple[list, tuple]:
        """Run a particle up to the scan; return its own values, and what left."""
        if self.is_shared:
            return [], ({}, jnp.zeros(()), jnp.zeros(()))
        return self.program.before(self.walk(given))

    def operands(self, own: list) -> tuple[list, list, list]:
        """Return constants, first carry and inputs of the scan."""
        return self.program.operands(self.shared if self.is_shared else own)

    def inputs(self) -> list:
        """Return the inputs of the scan that are sliced for all particles at once."""
        return self.operands([])[2] if self.is_shared else []

    def step(self, given, own: list, carry: list, xs: list, t, slices: Mapping[Path, Any]) -> tuple:
        """Move a particle one step."""
        walk = self.walk({})
        walk.here = (self.program.cut,)
        consts, _, whole = self.operands(own)
        xs = xs if self.is_shared else [x[t] for x in whole]
        return self.program.step(walk, consts, carry, xs, {**slices, **given})

    def after(self, given: Mapping[Path, Any], own: list, outs: list) -> tuple[list, tuple]:
        """Run what comes after the scan."""
        return self.program.after(self.walk(given), self.shared if self.is_shared else own, outs)


class _Pass:
    """One pass over the steps. Tracks are run in order: what the proposal makes is given to the model."""

    def __init__(self, spec: ParticleFilter, retained: Mapping[Path, Any] | None):
        self.spec, self.retained = spec, retained or {}
        self.is_conditional = retained is not None
        model = sequence(spec.gf, spec.args, spec.observed)
        self.by_path, self.view = model.by_path, model.view
        self.latent = frozenset(path for path in model.by_path if path not in spec.observed)
        if spec.proposal is None:
            self.tracks = [_Track(model, spec.observed, frozenset(spec.observed))]
        else:
            proposal = sequence(spec.proposal, spec.proposal_args, {})
            _check_steps(model, proposal)
            self.tracks = [
                _Track(proposal, {}, frozenset(proposal.by_path)),
                _Track(model, spec.observed, frozenset(model.by_path)),
            ]

    def through(self, run, first: Any, kept: Mapping[Path, Any], steps: int) -> tuple[list, dict, jax.Array]:
        """Run a part of all tracks; return what each gives, the latent choices, and what the log weight gains."""
        given, results, gain = self._retained(kept, first, steps), [], 0.0
        for number, track in enumerate(self.tracks):
            result, (records, _, log_weight) = run(number, track, given)
            given = {path: self._made(path, record) for path, record in records.items() if path in self.latent}
            results.append(result)
            gain = log_weight - gain
        return results, given, gain

    def _made(self, path: Path, record) -> jax.Array:
        if record.mask is None:
            return record.value
        raise ControlFlowError(
            f'The choice at "{show(path)}" is made only sometimes, which particles cannot follow.',
            where=self.by_path[path].eqn.params["source"],
            remedy="use `ppl.methods.sir()`",
        )

    def _retained(self, kept: Mapping[Path, Any], first: Any, steps: int) -> dict[Path, Masked]:
        """Give the retained choices in the first particle only; `steps`: how many axes of scans their values lack."""
        found = {}
        for path, value in kept.items():
            place = self.by_path[path]
            lead = len(place.scans) - steps + len(place.eqn.params["lanes"])
            found[path] = Masked(value, jnp.broadcast_to(first, jnp.shape(value)[:lead]))
        return found

    def kept(self, inside: bool) -> dict[Path, Any]:
        """Return the retained choices that stand inside the scan, or outside of it."""
        return {path: value for path, value in self.retained.items() if bool(self.by_path[path].scans) == inside}

    def run(self) -> Swarm:
        """Run all particles."""
        count = self.spec.particles
        firsts = (jnp.arange(count) == 0) & self.is_conditional
        for track in self.tracks:
            track.begin()
        begin = lambda first: self.through(
            lambda _, track, given: track.before(_among(given, track)), first, self.kept(False), 0
        )
        owns, early, log_weights = jax.vmap(begin)(firsts)
        log_weights = jnp.broadcast_to(log_weights, (count,))
        carries = [self._carry(track, own, count) for track, own in zip(self.tracks, owns, strict=True)]
        cloud = Cloud((owns, carries), log_weights, jnp.zeros((), log_weights.dtype))
        inputs = (jnp.arange(self.view.length), [track.inputs() for track in self.tracks], self._slices())
        first_step = self.view.length - 1 if self.view.reverse else 0

        def body(cloud: Cloud, inputs):
            t, xs, (slices, kept) = inputs
            resampled, ancestors = resample(cloud, self.spec.scheme, self.spec.threshold, self.is_conditional)
            is_first = t == first_step  # Nothing has been weighed yet.
            ancestors = jnp.where(is_first, jnp.arange(count), ancestors)
            cloud = jax.tree.map(lambda old, new: jnp.where(is_first, old, new), cloud, resampled)
            owns, carries = cloud.state

            def move(first, owns, carries):
                run = lambda i, track, given: _pair(track.step(given, owns[i], carries[i], xs[i], t, slices[i]))
                return self.through(run, first, kept, 1)

            moved, latent, gains = jax.vmap(move)(firsts, owns, carries)
            carries = [carry for carry, _ in moved]
            cloud = Cloud((owns, carries), cloud.log_weights + gains, cloud.log_normaliser)
            return cloud, (ancestors, [ys for _, ys in moved], latent)

        cloud, (ancestors, ys, latent) = lax.scan(body, cloud, inputs, reverse=self.view.reverse)
        return self._finish(cloud, firsts, early, ancestors, ys, latent)

    @staticmethod
    def _carry(track: _Track, own: list, count: int) -> list:
        if not track.is_shared:
            return jax.vmap(lambda own: track.operands(own)[1])(own)
        return [jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))) for leaf in track.operands([])[1]]

    def _slices(self) -> tuple[list[dict], dict]:
        """Return each step's part of what is observed, for each track, and of what is retained."""
        model = self.tracks[-1].walk({})
        model.here = (self.tracks[-1].program.cut,)
        observed = model.slices(model.given)
        return [observed if track is self.tracks[-1] else {} for track in self.tracks], model.slices(self.kept(True))

    def _finish(self, cloud, firsts, early, ancestors, ys, latent) -> Swarm:
        lineage, root = _lineage(ancestors, self.view.reverse)
        follow = lambda leaf: jax.vmap(lambda row, at: row[at])(leaf, lineage)
        ys, latent = jax.tree.map(follow, (ys, latent))
        ys = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), ys)
        early = jax.tree.map(lambda leaf: leaf[root], early)
        owns, carries = cloud.state

        def end(first, owns, carries, ys):
            run = lambda i, track, given: track.after(_among(given, track), owns[i], [*carries[i], *ys[i]])
            return self.through(run, first, self.kept(False), 0)

        results, late, gains = jax.vmap(end)(firsts, owns, carries, ys)
        choices = {path: self._laid_out(path, value) for path, value in latent.items()}
        log_weights = cloud.log_weights + gains
        total = Cloud(None, log_weights, cloud.log_normaliser).total()
        return Swarm({**early, **choices, **late}, log_weights, total)

    def _laid_out(self, path: Path, value: jax.Array) -> jax.Array:
        """Put the axis of steps where a trace has it, behind that of particles."""
        return jnp.moveaxis(jnp.moveaxis(value, 0, 1), 1, 1 + outer_lanes(self.by_path[path], 0))


def _among(given: Mapping[Path, Any], track: _Track) -> dict[Path, Any]:
    return {path: value for path, value in given.items() if path in track.program.by_path}


def _pair(stepped: tuple) -> tuple[tuple, tuple]:
    carry, ys, left = stepped
    return (carry, ys), left


def _lineage(ancestors: jax.Array, reverse: bool) -> tuple[jax.Array, jax.Array]:
    """Return, for each step, which particle the final ones descend from, and the same for the start."""

    def back(index, parents):
        return parents[index], index

    root, lineage = lax.scan(back, jnp.arange(ancestors.shape[1]), ancestors, reverse=not reverse)
    return lineage, root


def _check_steps(model: Sequenced, proposal: Sequenced) -> None:
    ours, theirs = model.view, proposal.view
    if (ours.length, ours.reverse) != (theirs.length, theirs.reverse):
        raise ControlFlowError(
            f"The scans of `{model.name}` and of its proposal `{proposal.name}` do not go together.",
            expected=f"{ours.length} steps, reverse={ours.reverse}",
            got=f"{theirs.length} steps, reverse={theirs.reverse}",
            remedy="write the proposal's choices as a scan over the same steps",
        )
