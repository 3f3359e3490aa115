"""Objectives: stochastic functions of `(params, observed, *inputs)`, to be maximised."""

from estimators.objectives import divergences as divergences
from estimators.objectives.analytic_kl_elbo import analytic_kl_elbo as analytic_kl_elbo
from estimators.objectives.annealed import annealed as annealed
from estimators.objectives.cubo import cubo as cubo
from estimators.objectives.cubo import exp_cubo as exp_cubo
from estimators.objectives.dreg import dreg as dreg
from estimators.objectives.elbo import elbo as elbo
from estimators.objectives.f_divergence import f_divergence as f_divergence
from estimators.objectives.fisher import fisher_divergence as fisher_divergence
from estimators.objectives.fisher import score_matching as score_matching
from estimators.objectives.forward_kl import forward_kl as forward_kl
from estimators.objectives.hvi import diwhvi as diwhvi
from estimators.objectives.hvi import hvi as hvi
from estimators.objectives.hvi import iwhvi as iwhvi
from estimators.objectives.iwelbo import iwelbo as iwelbo
from estimators.objectives.kernel_stein import kernel_stein as kernel_stein
from estimators.objectives.renyi import renyi as renyi
from estimators.objectives.smc_elbo import smc_elbo as smc_elbo
from estimators.objectives.sticking_the_landing import sticking_the_landing as sticking_the_landing
from estimators.objectives.tempered_elbo import tempered_elbo as tempered_elbo
from estimators.objectives.thermodynamic import thermodynamic as thermodynamic
from estimators.objectives.vimco import vimco as vimco
from estimators.objectives.wake_sleep import reweighted_wake_sleep as reweighted_wake_sleep
from estimators.objectives.wake_sleep import sleep_q as sleep_q
from estimators.objectives.wake_sleep import wake_p as wake_p
from estimators.objectives.wake_sleep import wake_q as wake_q
