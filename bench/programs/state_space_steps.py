"""The same program as `state_space`: only the floor differs."""

from bench.programs.state_space import guide as guide
from bench.programs.state_space import model as model
from bench.programs.state_space import objective as objective
