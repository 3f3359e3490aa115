"""Passes: staged programs become staged programs that mean the same and run faster."""

from ppl.passes.draws import plan_draws as plan_draws
from ppl.passes.fusion import fuse as fuse
from ppl.passes.merging import merge_sums as merge_sums
from ppl.passes.pack import flatten as flatten
from ppl.passes.pack import pack as pack
from ppl.passes.relaxing import relax as relax
from ppl.passes.relaxing import relax_choices as relax_choices
from ppl.passes.shared_parts import pull_out_shared as pull_out_shared
from ppl.passes.vectorise import vectorise as vectorise
