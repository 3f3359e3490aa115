"""`predict`: draws of the unknown, and of data as they would be seen again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.tree_util import register_dataclass

from ppl import choicemap
from ppl._errors import AddressError, PPLError, boundary, closest, user_source
from ppl.choicemap import Path, show
from ppl.generative import GenerativeFunction
from ppl.prediction.pointwise import pointwise
from ppl.transforms import generate, seed, simulate
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed
from ppl.transforms.programs import check_key, list_places
from ppl.transforms.run import require_gf


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Predictions:
    """Draws from a model, a pytree; every array has a leading axis of draws.

    Attributes:
        latents: Nested dict of the unobserved choices, from the posterior (or the prior).
        predictive: Nested dict of the observed choices, drawn again for each of these.
        log_likelihood: Nested dict of the log densities of what was observed, element by element, given the latents;
            None for draws from the prior.
        observed: What was observed, without the axis of draws; None for draws from the prior.

    Indexing with an address gives the draws of that choice: `draws["theta"]`, `draws["group", "z"]`.
    """

    latents: dict[str, Any]
    predictive: dict[str, Any]
    log_likelihood: dict[str, Any] | None
    observed: dict[str, Any] | None

    @boundary
    def __getitem__(self, address: Any) -> Any:
        """Return the draws at an address."""
        return choicemap.lookup(choicemap.merge(self.latents, self.predictive), address)


@boundary
def predict(
    model: GenerativeFunction,
    guide: GenerativeFunction | Mapping[str, Any] | None,
    params: Any,
    observed: Any,
    *inputs: Any,
    key: jax.Array,
    samples: int = 1000,
) -> Predictions:
    """Draw from the posterior that a guide describes, and data from the model given each of these draws.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`. None: draw from the prior. A nested dict of draws with a
            leading axis, such as those of a Markov chain: take these, all of them.
        params: Parameters of both, as the objective that they were fitted with had them.
        observed: Nested dict of observed choices; for the prior, only its addresses are used.
        *inputs: Inputs of both.
        key: A typed key.
        samples: Number of draws.

    Returns:
        [`Predictions`][ppl.Predictions].

    Raises:
        AddressError: The guide's and the observed choices together are not the model's.
        PPLError: The number of draws is not a positive int, or the key not one typed key.

    Example:
        >>> import jax, ppl
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 0.1) @ "y"
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(2.0, 0.1) @ "z")
        >>> draws = ppl.predict(model, guide, {}, {"y": 2.0}, key=jax.random.key(0), samples=500)
        >>> draws["z"].shape, draws["y"].shape, bool(abs(draws["y"].mean() - 2.0) < 0.05)
        ((500,), (500,), True)
        >>> prior = ppl.predict(model, None, {}, {"y": 2.0}, key=jax.random.key(0), samples=500)
        >>> bool(abs(prior["y"].mean()) < 0.2)
        True
    """
    require_gf(model, "predict")
    check_key(key, "predict(..., key=...)")
    given = choicemap.flatten(observed)
    places = addressed(list_places(model.stage((params, *inputs))[0].body)[0])
    checked = check_given(model.name, places, given, complete=False)
    latent_key, data_key = jax.random.split(key)
    if guide is None:
        return _from_prior(model, given, (params, *inputs), _keys(latent_key, samples))
    if isinstance(guide, Mapping):
        latents, num = _given_draws(guide)
    else:
        require_gf(guide, "predict")
        draw = lambda key: seed(simulate(guide))(key, params, observed, *inputs).choices
        keys = _keys(latent_key, samples)
        _check_addresses(model, guide.name, places, given, jax.eval_shape(draw, keys[0]))
        latents, num = jax.jit(jax.vmap(draw))(keys), samples
    _check_addresses(model, "the draws" if isinstance(guide, Mapping) else guide.name, places, given, latents)

    def again(key, latents):
        def program():
            fresh = generate(model)(latents, params, *inputs)[0].choices
            densities = pointwise(model, {**choicemap.flatten(latents), **checked}, (params, *inputs))
            return _only(fresh, given), choicemap.nest({path: densities[path] for path in given})

        return seed(program)(key)

    predictive, log_likelihood = jax.jit(jax.vmap(again))(_keys(data_key, num), latents)
    return Predictions(latents, predictive, log_likelihood, choicemap.nest(given))


def _from_prior(model: GenerativeFunction, given: Mapping[Path, Any], args: tuple, keys) -> Predictions:
    choices = jax.jit(jax.vmap(lambda key: seed(simulate(model))(key, *args).choices))(keys)
    others = {path: leaf for path, leaf in choicemap.flatten(choices).items() if path not in given}
    return Predictions(choicemap.nest(others), _only(choices, given), None, None)


def _only(choices: Any, paths) -> dict[str, Any]:
    return choicemap.nest({path: leaf for path, leaf in choicemap.flatten(choices).items() if path in paths})


def _keys(key: jax.Array, samples: Any) -> jax.Array:
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise PPLError(
            "`samples` is the number of draws.",
            where=user_source(),
            expected="a positive int",
            got=repr(samples),
            remedy="give e.g. `samples=1_000`",
        )
    return jax.random.split(key, samples)


def _given_draws(draws: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    shapes = {path: jax.numpy.shape(jax.tree.leaves(leaf)[0]) for path, leaf in choicemap.flatten(draws).items()}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or lengths == {()}:
        raise PPLError(
            "The draws do not share a leading axis.",
            where=user_source(),
            expected="arrays with one leading axis of draws",
            got=", ".join(f'"{show(path)}" of shape {shape}' for path, shape in shapes.items()) or "no draws",
            remedy="join chains into one axis of draws: `x.reshape(-1, *x.shape[2:])`",
        )
    return choicemap.nest(choicemap.flatten(draws)), lengths.pop()[0]


def _check_addresses(model, guide: str, places, given, latents) -> None:
    """Refuse latents that are not the model's: `generate` would draw the missing ones from the prior."""
    made = list(choicemap.flatten(latents))
    missing = [path for path in places if path not in given and path not in made]
    surplus = [path for path in made if path not in places or path in given]
    if not missing and not surplus:
        return
    listed = lambda paths: ", ".join(f'"{show(path)}"' for path in paths) or "none"
    path = (missing or surplus)[0]
    close = closest(show(path), [show(other) for other in (surplus if missing else missing)])
    theirs, ours = (close, show(path)) if missing else (show(path), close)
    raise AddressError(
        f"The choices of `{guide}` are not the unobserved choices of `{model.name}`.",
        where=f'"{show(path)}" at {places[path].eqn.params["source"]}' if path in places else f'"{show(path)}"',
        expected=listed([path for path in places if path not in given]),
        got=listed(made),
        remedy=f'rename "{theirs}" to "{ours}"?' if close else "make every unobserved choice in it, and no other",
    )
