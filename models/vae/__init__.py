"""Variational auto-encoders on handwritten digits."""

from models.vae.program import PROGRAM as PROGRAM
