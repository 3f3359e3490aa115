"""A predictive-coding recurrent network with random latents (PV-RNN) on sequences of movements."""

from models.pv_rnn.program import PROGRAM as PROGRAM
