"""A Novel Predictive-Coding-Inspired Variational RNN Model: Ahmadi & Tani, Neural Computation 31(11), 2019.

A recurrent network whose layers have latents in every step. Their prior is computed from the step before; so is their
posterior, but for an adaptive vector A of every sequence, step and layer, which is trained by back-propagated
prediction errors: there is no encoder, and data never enter the forward pass. Model and guide are one step function,
taken with latents of the prior or of the posterior (`generative.py`). A meta-prior w weighs the divergence of the two.
Online, weights are frozen and only the A of a window are trained: error regression, a second inference problem over
the same programs (`regression.py`).

Reproduced, in relations: a high w makes the network deterministic, a low one a random process, one between them finds
the probabilities of the data (the experiment with primitive movements chained by chance); and error regression
predicts better than none, and than a variational RNN (in the paper for a robot's movements; here on those primitives
and on movements of a wrist, BasicMotions). Beyond the paper: one argument trains by an importance-weighted bound, with
w as its temperature; online error regression of all streams is one compiled program, with Adam kept warm.

What differs: no code of 2019 is public, and sizes of its experiments are not known to us. `full` has those of a
descendant (T-GLean, of the same laboratory) with the softmax code of 2019; `quick` and `default` have two small layers,
normal observations and few sequences.
"""

from models.pv_rnn import sequences
from models.pv_rnn.checks import exact
from models.pv_rnn.claims import claims
from models.pv_rnn.config import SMALL, Config
from models.pv_rnn.experiments import chains, motions, streams
from models.pv_rnn.scale import describe
from models.registry import Context, Preset, Program
from models.report import Outcome


def run(context: Context) -> Outcome:
    """Fit chains of primitives, streams, and real movements; measure, predict, draw."""
    config = context.config
    real = sequences.motions(config.motion_length)[0] if config.motion_epochs else None  # before anything takes long
    metrics, found, first = describe(config), {}, exact()
    if config.metas:
        chains(context, metrics, found)
    streams(context, metrics, found)
    if real is not None:
        motions(context, real, metrics, found)
    return Outcome(metrics, [*first, *claims(config, metrics, found)])


PROGRAM = Program(
    name="pv_rnn",
    title="A Novel Predictive-Coding-Inspired Variational RNN Model for Online Prediction and Recognition",
    paper="Ahmadi & Tani, Neural Computation 31(11):2025-2074, 2019, arXiv:1811.01339",
    data="primitive movements chained by chance, made here; default and full: BasicMotions (fetch motions)",
    presets={
        "quick": Preset(SMALL(metas=(), epochs=2_000, amortised=False, motion_epochs=0, online=0), "45 s"),
        "default": Preset(SMALL(motion_epochs=1_500, motion_length=80), "5 min"),
        "full": Preset(Config(), "days, estimated"),
    },
    run=run,
)
