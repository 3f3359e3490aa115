"""Stochastic densities written out: their choices become those of the program they stand in."""

from __future__ import annotations

from collections.abc import Sequence

from ppl import jaxprs
from ppl.batching import Rebind
from ppl.choicemap import Path, show
from ppl.primitives import call_p, choice_p, factor_p
from ppl.stochastic.primitive import stochastic_p, view_of_stochastic


class Relabel(Rebind):
    """Bind every choice again, without an address, its label under a prefix."""

    def __init__(self, prefix: Path):
        super().__init__(())
        self.prefix = prefix

    def special(self, eqn, values):
        """Write the prefix in front of the label."""
        label = show((*self.prefix, eqn.params["label"]))
        return eqn.primitive.bind(*values, **dict(eqn.params, label=label))


class _WriteOut(Rebind):
    """Write stochastic densities out as what they draw."""

    def __init__(self, prefix: Path = ()):
        super().__init__(())
        self.prefix = prefix

    def special(self, eqn, values: Sequence) -> list:
        if eqn.primitive is stochastic_p:
            prefix = (*self.prefix, *eqn.params["address"])
            kept, results, _ = view_of_stochastic(eqn, values).simulate(Relabel(prefix).run)
            return [*kept, *results]
        if eqn.primitive is call_p:
            return _WriteOut((*self.prefix, *eqn.params["address"])).run(jaxprs.read_call(eqn), values)
        return super().special(eqn, values)


def holds_stochastic(body: jaxprs.Body) -> bool:
    """Tell whether a program has a stochastic density at any depth."""
    return jaxprs.body_holds_choice(body) and any(
        eqn.primitive is stochastic_p
        or (eqn.primitive not in (choice_p, factor_p) and any(map(holds_stochastic, jaxprs.inner_bodies(eqn))))
        for eqn in body.eqns
    )


def written_out(body: jaxprs.Body) -> jaxprs.Body:
    """Return a program without stochastic densities; one that has none is returned as it is."""
    if not holds_stochastic(body):
        return body
    return jaxprs.restage(lambda *leaves: _WriteOut().run(body, leaves), jaxprs.in_shapes(body))
