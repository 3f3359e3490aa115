"""Where arrays lie: on one device, or on a mesh of them, also one that spans processes."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from ppl._errors import PPLError


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def put(leaf: Any, sharding: Sharding) -> jax.Array:
    """Put an array on devices; of those that other processes have, each process puts its own parts."""
    if isinstance(leaf, jax.Array) and leaf.sharding.device_set == sharding.device_set:
        return jax.device_put(leaf, sharding)
    if _is_key(leaf):
        data = put(jr.key_data(leaf), sharding)
        return jax.jit(lambda data: jr.wrap_key_data(data, impl=jr.key_impl(leaf)))(data)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


class Placement:
    """Puts examples in equal parts on the devices along the first axis of a mesh, and all else on every device.

    A parameter that already is sharded over this mesh keeps its sharding. Without a mesh everything stays where JAX
    puts it.

    Args:
        mesh: The devices, or None.

    Raises:
        PPLError: If it is not a mesh.
    """

    def __init__(self, mesh: Mesh | None):
        if not isinstance(mesh, Mesh | None):
            raise PPLError(
                "`mesh` must be a jax.sharding.Mesh.",
                expected='jax.make_mesh((jax.device_count(),), ("data",))',
                got=repr(mesh),
            )
        self._mesh = mesh

    @property
    def num_parts(self) -> int:
        """Number of parts into which examples are split."""
        return 1 if self._mesh is None else self._mesh.shape[self._mesh.axis_names[0]]

    @property
    def spans_processes(self) -> bool:
        """Whether devices of other processes take part."""
        return self._mesh is not None and len({device.process_index for device in self._mesh.devices.flat}) > 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return not self.spans_processes or jax.process_index() == 0

    def check_batch(self, batch_size: int | None) -> None:
        """Refuse a batch that cannot be split equally.

        Raises:
            PPLError: If its size is not a multiple of the number of parts.
        """
        if batch_size is not None and batch_size % self.num_parts:
            raise PPLError(
                "`batch_size` cannot be split equally over the first axis of `mesh`.",
                expected=f"a multiple of {self.num_parts}",
                got=str(batch_size),
            )

    # --- From the host to the devices ----------------------------------------------------------------------------

    def replicate(self, tree: Any) -> Any:
        """Put a copy of every array on all devices; what is sharded over the mesh already is copied as it lies."""
        return jax.tree.map(lambda leaf: self._copy(leaf) if eqx.is_array(leaf) else leaf, tree)

    def split(self, tree: Any, axis: int = 0, size: int | None = None) -> Any:
        """Split every array along an axis, if the parts are equal or `size` says which arrays; else replicate it.

        Args:
            tree: Examples.
            axis: Along which to split.
            size: Rows that all leaves have: they are filled up with rows that nobody reads.
        """
        if self._mesh is None:
            return jax.tree.map(lambda leaf: jnp.asarray(leaf) if eqx.is_array(leaf) else leaf, tree)
        if size is not None:
            tree = jax.tree.map(lambda leaf: self._filled(leaf, size), tree)

        def place(leaf):
            fits = eqx.is_array(leaf) and leaf.ndim > axis and leaf.shape[axis] % self.num_parts == 0
            return put(leaf, self._rows(axis)) if fits else self.replicate(leaf)

        return jax.tree.map(place, tree)

    def _filled(self, leaf, size):
        missing = -size % self.num_parts
        if not missing or _is_key(leaf):
            return leaf
        return np.concatenate([np.asarray(leaf), np.asarray(leaf)[:1].repeat(missing, axis=0)])

    def _copy(self, leaf):
        if self._mesh is None:
            return jnp.array(leaf, copy=True)
        if self._on_mesh(leaf):
            return jax.jit(jnp.copy, out_shardings=leaf.sharding)(leaf)
        return put(leaf, NamedSharding(self._mesh, PartitionSpec()))

    def _on_mesh(self, leaf) -> bool:
        sharding = getattr(leaf, "sharding", None)
        return isinstance(sharding, NamedSharding) and sharding.mesh == self._mesh

    def _rows(self, axis=0) -> NamedSharding:
        assert self._mesh is not None
        return NamedSharding(self._mesh, PartitionSpec(*[None] * axis, self._mesh.axis_names[0]))

    def whole(self, tree: Any) -> Any:
        """Put all of every array on every device, if there are other processes that have parts of it."""
        if self._mesh is None or not self.spans_processes:
            return tree
        gather = jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(self._mesh, PartitionSpec()))
        return jax.tree.map(lambda leaf: gather(leaf) if eqx.is_array(leaf) else leaf, tree)

    # --- Inside a compiled step ----------------------------------------------------------------------------------

    def keep_split(self, batch: Any) -> Any:
        """Keep a batch split over the devices."""
        if self._mesh is None:
            return batch

        def keep(leaf):
            splits = eqx.is_array(leaf) and leaf.ndim and leaf.shape[0] % self.num_parts == 0
            return jax.lax.with_sharding_constraint(leaf, self._rows()) if splits else leaf

        return jax.tree.map(keep, batch)

    def shardings(self, tree: Any) -> Any:
        """Return where the arrays of a pytree lie, or None without a mesh."""
        return None if self._mesh is None else jax.tree.map(lambda leaf: leaf.sharding, tree)

    def keep(self, arrays: Any, shardings: Any) -> Any:
        """Keep arrays where `shardings` says that they lie."""
        return arrays if shardings is None else jax.tree.map(jax.lax.with_sharding_constraint, arrays, shardings)

    def keep_whole(self, arrays: Any) -> Any:
        """Keep arrays on every device."""
        if self._mesh is None:
            return arrays
        return jax.lax.with_sharding_constraint(arrays, NamedSharding(self._mesh, PartitionSpec()))
