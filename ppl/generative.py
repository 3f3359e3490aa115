"""Generative functions: Python functions whose random choices have addresses."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import register_pytree_node_class

from ppl import choicemap, jaxprs
from ppl._errors import PPLError, boundary, user_source
from ppl.choice import Pending, as_path, note_pending, tracing
from ppl.primitives import call_p


@register_pytree_node_class
class Trace:
    """One run of a generative function.

    Attributes:
        choices: Nested dict from addresses to values; `Masked` where a choice is made only sometimes.
        retval: What the function returned.
        log_density: log p of all choices (always +log p), a scalar.
        args: The arguments of the run.

    Example:
        >>> import jax, ppl
        >>> @ppl.gen
        ... def model():
        ...     return ppl.normal(0.0, 1.0) @ "z"
        >>> trace = model.simulate(jax.random.key(0))
        >>> bool(trace["z"] == trace.retval)
        True
    """

    def __init__(self, choices: dict[str, Any], retval: Any, log_density: Any, args: tuple):
        self.choices, self.log_density = choices, log_density
        # Leaves that are not arrays are static: they must not be told apart again after JAX put in leaves of its own.
        self._retval, self._retval_split = jaxprs.split(retval)
        self._args, self._args_split = jaxprs.split(args)

    @property
    def retval(self) -> Any:
        """What the function returned."""
        return self._retval_split.join(self._retval)

    @property
    def args(self) -> tuple:
        """The arguments of the run."""
        return self._args_split.join(self._args)

    @boundary
    def __getitem__(self, address: Any) -> Any:
        """Return the value or the nested choices at `"a"`, `"sub", "z"` or `"sub/z"`."""
        return choicemap.lookup(self.choices, address)

    def tree_flatten(self):
        """Flatten for JAX."""
        return (self.choices, self._retval, self.log_density, self._args), (self._retval_split, self._args_split)

    @classmethod
    def tree_unflatten(cls, splits, children):
        """Rebuild for JAX."""
        trace = object.__new__(cls)
        trace.choices, trace._retval, trace.log_density, trace._args = children
        trace._retval_split, trace._args_split = splits
        return trace

    def __repr__(self) -> str:
        lines = [f"  {choicemap.show(path)}: {_brief(leaf)}" for path, leaf in choicemap.flatten(self.choices).items()]
        return "\n".join([f"Trace(log_density={self.log_density}", *lines, ")"])

    def _repr_html_(self) -> str:
        """Show the choices as a table in notebooks."""
        rows = "".join(_row(path, leaf) for path, leaf in choicemap.flatten(self.choices).items())
        head = f"<tr><th>choice</th><th>value</th></tr>{rows}"
        return f"<table><caption>Trace, log density {html.escape(str(self.log_density))}</caption>{head}</table>"


def _row(path: tuple[str, ...], leaf: Any) -> str:
    return f"<tr><td><code>{html.escape(choicemap.show(path))}</code></td><td>{html.escape(_brief(leaf))}</td></tr>"


def _brief(leaf: Any) -> str:
    masked = choicemap.is_masked(leaf)
    value = leaf.value if masked else leaf
    shape = jax.numpy.shape(value)
    text = str(value) if not shape else f"{jax.numpy.result_type(value)}{list(shape)}"
    return f"Masked {text}" if masked else text


class GenerativeFunction:
    """A program with addressed choices; made by [`gen`][].

    `gf(*args)` is an un-called call: `gf(*args) @ "address"` runs it with its choices nested under the address.
    `gf.inline(*args)` runs it with its choices among the caller's own.
    """

    def __init__(self, function: Callable):
        self.function = function
        functools.update_wrapper(self, function)
        self.name = getattr(function, "__name__", type(function).__name__)

    def __repr__(self) -> str:
        return f"<generative function {self.name}>"

    def __get__(self, instance: Any, owner: Any = None):
        """Bind as a method, so that `@gen` works inside classes."""
        return self if instance is None else GenerativeFunction(functools.partial(self.function, instance))

    def __call__(self, *args: Any) -> Call:
        """Prepare a nested call."""
        return Call(self, args)

    def inline(self, *args: Any) -> Any:
        """Run the body here: its choices are the caller's own."""
        return self.function(*args)

    def stage(self, args: tuple):
        """Trace the body to a jaxpr; see `ppl.jaxprs.stage`."""

        def body(*inner):
            with tracing(self.name):
                return self.function(*inner)

        body.__name__ = self.name
        return jaxprs.stage(body, args)

    @boundary
    def addresses(self, *args: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the "/"-joined addresses of the choices, with shape and dtype in a trace; nothing is run.

        Example:
            >>> import ppl
            >>> ppl.gen(lambda n: ppl.bernoulli(0.5) @ ("group", "b")).addresses(3)
            {'group/b': ShapeDtypeStruct(shape=(), dtype=int32)}
        """
        from ppl.transforms.layout import addressed, trace_shape
        from ppl.transforms.programs import list_places

        places, _ = list_places(self.stage(args)[0].body)
        return {
            choicemap.show(path): jax.ShapeDtypeStruct(trace_shape(place), place.eqn.outvars[0].aval.dtype)
            for path, place in addressed(places).items()
        }

    @boundary
    def strategies(self, *args: Any) -> dict[str, tuple]:
        """Return the gradient strategies by address, a tuple where branches of a cond share one; nothing is run.

        For objectives that treat choices by how they are differentiated: a baseline is for score functions only.

        Example:
            >>> import ppl
            >>> [str(one) for one in ppl.gen(lambda: ppl.bernoulli(0.5, grad=ppl.enum()) @ "b").strategies()["b"]]
            ['enum']
        """
        from ppl.transforms.traits import strategies

        return strategies(self, args)

    @boundary
    def simulate(self, key: jax.Array | None = None, *args: Any) -> Trace:
        """Run the program: `ppl.seed(ppl.simulate(gf))(key, *args)`."""
        from ppl.transforms import seed, simulate

        return seed(simulate(self))(key, *args)

    @boundary
    def assess(self, key: jax.Array | None = None, choices: Any = None, *args: Any) -> tuple[jax.Array, Any]:
        """Return `(log_density, retval)` of given choices; the key serves stochastic densities."""
        from ppl.transforms import assess, seed

        return seed(lambda *inner: assess(self)(choices, *inner))(key, *args)  # Concrete choices are checked.

    @boundary
    def log_density(self, choices: Any, *args: Any) -> jax.Array:
        """Return the exact log density of given choices, without a key."""
        from ppl.transforms import assess

        return assess(self)(choices, *args)[0]

    @boundary
    def generate(self, key: jax.Array | None = None, observed: Any = None, *args: Any) -> tuple[Trace, jax.Array]:
        """Observe some choices and sample the rest: `(trace, log_weight)`."""
        from ppl.transforms import generate, seed

        return seed(lambda *inner: generate(self)(observed, *inner))(key, *args)

    @boundary
    def update(
        self, key: jax.Array, trace: Trace, observed: Any, *args: Any
    ) -> tuple[Trace, jax.Array, dict[str, Any]]:
        """Change some choices of a trace: `(trace, log_weight, discarded)`; see `ppl.transforms.update`."""
        from ppl.transforms import seed, update

        return seed(update(self))(key, trace, observed, *args)

    @boundary
    def regenerate(
        self, key: jax.Array, trace: Trace, selection: Any, *args: Any
    ) -> tuple[Trace, jax.Array, dict[str, Any]]:
        """Draw some choices of a trace anew: `(trace, log_weight, discarded)`; see `ppl.transforms.regenerate`."""
        from ppl.transforms import regenerate, seed

        return seed(regenerate(self))(key, trace, selection, *args)

    @boundary
    def project(self, trace: Trace, selection: Any) -> jax.Array:
        """Return the part of a trace's log density due to some choices; see `ppl.transforms.project`."""
        from ppl.transforms import project

        return project(self)(trace, selection)


@boundary
def gen(function: Callable) -> GenerativeFunction:
    """Make a generative function from a Python function that makes addressed random choices.

    Args:
        function: Any function of JAX values; its body may use jit, vmap, scan, cond, switch and checkpoint.

    Returns:
        The generative function.

    Example:
        >>> import jax, ppl
        >>> @ppl.gen
        ... def coin(p):
        ...     return ppl.bernoulli(p) @ "b"
        >>> round(float(coin.log_density({"b": 1}, 0.25)), 4)
        -1.3863
    """
    if isinstance(function, GenerativeFunction):
        return function
    if not callable(function):
        raise PPLError(
            "`gen` takes a function.", where=user_source(), got=repr(function), remedy="write `@gen` above a `def`"
        )
    return GenerativeFunction(function)


class Call(Pending):
    """A generative function with its arguments, to be run by `@ "address"`."""

    noun = "call"

    def __init__(self, gf: GenerativeFunction, args: tuple):
        self.gf, self.args, self.source, self.used = gf, args, user_source(), False
        note_pending(self)

    def __repr__(self) -> str:
        return f"{self.gf.name}(...)"

    @boundary
    def __matmul__(self, address: Any) -> Any:
        """Run the call with its choices nested under the address; return what the function returns."""
        self.used = True
        path = as_path(address)
        staged, leaves = self.gf.stage(self.args)
        jaxpr, consts = jaxprs.with_const_arguments(staged.body)
        outs = call_p.bind(*consts, *leaves, jaxpr=jaxpr, address=path, label=choicemap.show(path), source=self.source)
        return staged.results(outs)
