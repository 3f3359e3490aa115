"""What stands for the key of a strategy where noise is enumerated: drawing from it is refused."""

from __future__ import annotations

from ppl._errors import StrategyError
from ppl.interpreter import Place
from ppl.transforms.programs import label_of


class Keyless:
    """A key that must not be drawn from; JAX asks every key for what arrays have first.

    Args:
        place: The choice whose strategy has it.
    """

    def __init__(self, place: Place):
        self._place = place

    def __getattr__(self, name: str):
        """Refuse all that arrays have.

        Raises:
            StrategyError: For every name but Python's own.
        """
        if name.startswith("__") and name != "__jax_array__":
            raise AttributeError(name)
        params, label = self._place.eqn.params, label_of(self._place)
        raise StrategyError(
            f"The strategy of {label!r} draws noise of its own, which cannot be enumerated.",
            where=f"{label!r} at {params['source']}",
            expected="`enum()`, `reinforce()`, or a strategy that draws nothing itself, such as `mvd()`",
            got=str(params["strategy"]),
            remedy="estimate with `ppl.grad` over many keys instead, or ask `ppl.gradient_variance`",
        )
