"""Guides made from a model; each is a program, which `source` prints."""

from ppl.guides.delta import delta as delta
from ppl.guides.delta import point as point
from ppl.guides.flow import Around as Around
from ppl.guides.flow import flow as flow
from ppl.guides.full import full as full
from ppl.guides.laplace import laplace as laplace
from ppl.guides.low_rank import low_rank as low_rank
from ppl.guides.mean_field import mean_field as mean_field
from ppl.guides.onto import onto as onto
from ppl.guides.parameters import learn as learn
from ppl.guides.parameters import lower as lower
from ppl.guides.parameters import unconstrain as unconstrain
from ppl.guides.parameters import whiten as whiten
from ppl.guides.source import source as source
