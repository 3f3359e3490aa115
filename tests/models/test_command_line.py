"""The command line, on a program small enough to see through."""

import json
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import pytest

from models import data, registry
from models.__main__ import main
from models.registry import Context, Preset, Program
from models.report import Claim, Outcome


@dataclass(frozen=True)
class Config:
    measured: float = 1.0
    status: str = "asserted"


def run(context: Context) -> Outcome:
    """Report the seed, and claim that the configured number is at least zero."""
    (context.out / "picture.png").touch()
    metrics = {"seed": float(context.seed), "draw": float(jax.random.uniform(context.key))}
    return Outcome(
        metrics, [Claim("it is positive", "derivation", context.config.measured, 0.0, context.config.status)]
    )


def program(**presets: Config) -> Program:
    times = {name: Preset(config, f"{name} seconds") for name, config in presets.items()}
    return Program("tiny", "A Title", "Someone 2020", "no data", times, run)


@pytest.fixture
def install(monkeypatch):
    """Return a function that adds a program called "tiny" to the collection."""

    def install(tiny: Program) -> None:
        monkeypatch.setitem(sys.modules, "models.tiny", SimpleNamespace(PROGRAM=tiny))
        monkeypatch.setattr(registry, "names", lambda: ["tiny", "vae"])

    return install


def test_list_shows_paper_data_and_times(install, capsys):
    install(program(quick=Config(), default=Config()))
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "tiny\n    A Title\n    paper  Someone 2020\n    data   no data\n" in shown
    assert "quick quick seconds, default default seconds" in shown
    assert "Kingma & Welling" in shown


def test_list_goes_on_past_a_program_whose_package_is_missing(install, capsys, monkeypatch):
    install(program(quick=Config()))
    monkeypatch.setattr(registry, "names", lambda: ["absent", "tiny"])
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "absent\n    needs models.absent, which is not installed" in shown
    assert "A Title" in shown


def test_every_program_declares_itself():
    for name in registry.names():
        found = registry.find(name)
        assert found.name == name
        assert set(found.presets) <= set(registry.PRESETS)
        assert {"quick", "default"} <= set(found.presets)
        assert "0x" not in repr(found.presets)  # no addresses: the repr identifies a run that is resumed


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["run", "vea"], "Did you mean 'vae'?"),
        (["run", "something-else"], "There are: tiny, vae."),
        (["run", "tiny", "--preset", "full"], "tiny has no preset 'full', only quick"),
        (["run", "tiny", "--preset", "huge"], "invalid choice"),
        (["run", "tiny", "--seeds", "0"], "invalid whole number from 1 on value: '0'"),
        (["run", "tiny", "--seed", "-1"], "invalid whole number from 0 on value: '-1'"),
        (["fetch", "mnits"], "Did you mean 'mnist'?"),
        (["run"], "NAME"),
        ([], "list | run | fetch"),
    ],
)
def test_requests_that_cannot_be_met_exit_with_2(install, capsys, arguments, remedy):
    install(program(quick=Config()))
    assert main(arguments) == 2
    assert remedy in capsys.readouterr().err


def test_help_exits_with_0():
    assert main(["--help"]) == 0


def test_missing_data_exits_with_2_and_says_what_to_do(install, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PROGRAMMABLE_VI_DATA", str(tmp_path))
    install(Program("tiny", "", "", "", {"full": Preset(None, "")}, lambda context: data.mnist()))
    assert main(["run", "tiny", "--preset", "full", "--out", str(tmp_path / "out")]) == 2
    assert "python -m models fetch mnist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "status", "shown"),
    [
        (Config(1.0), 0, "holds (asserted): it is positive"),
        (Config(-1.0), 1, "FAILS (asserted): it is positive"),
        (Config(float("nan")), 1, "FAILS (asserted): it is positive"),
        (Config(-1.0, "open"), 0, "does not hold (open): it is positive"),
    ],
)
def test_the_exit_status_tells_whether_asserted_claims_hold(install, capsys, tmp_path, config, status, shown):
    install(program(quick=config))
    assert main(["run", "tiny", "--preset", "quick", "--out", str(tmp_path)]) == status
    assert shown in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "report.json").read_text())["claims"]
    assert entry["holds"] is (config.measured >= 0)


def test_without_a_preset_and_a_folder_there_are_defaults(install, monkeypatch, tmp_path):
    install(program(quick=Config(), default=Config()))
    monkeypatch.chdir(tmp_path)
    assert main(["run", "tiny"]) == 0
    report = json.loads((tmp_path / "runs" / "tiny-default" / "report.json").read_text())
    assert (report["name"], report["preset"], report["seeds"]) == ("tiny", "default", [0])
    assert (tmp_path / "runs" / "tiny-default" / "picture.png").exists()


def test_several_seeds_have_a_folder_each_and_one_report(install, tmp_path):
    install(program(quick=Config()))
    assert main(["run", "tiny", "--preset", "quick", "--seed", "3", "--seeds", "2", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["seeds"] == [3, 4]
    assert report["metrics"]["seed"] == 3.5
    assert report["metrics"]["draw_sd"] > 0
    assert all((tmp_path / f"seed-{seed}" / "picture.png").exists() for seed in (3, 4))


def test_only_the_same_run_is_resumed(install, capsys, tmp_path):
    install(program(quick=Config(), default=Config(2.0)))
    again = ["run", "tiny", "--out", str(tmp_path), "--resume"]
    assert main([*again, "--preset", "quick"]) == 0
    assert main([*again, "--preset", "quick"]) == 0
    assert main([*again, "--preset", "default", "--seed", "1"]) == 2
    assert (tmp_path / "report.json").exists()  # that of the run that is there
    shown = capsys.readouterr().err
    assert "preset: quick there, default now" in shown
    assert "seed: 0 there, 1 now" in shown
    assert "Give another --out" in shown


def test_an_interrupted_run_says_how_to_go_on(install, capsys, tmp_path):
    def interrupted(context: Context) -> Outcome:
        raise KeyboardInterrupt

    install(Program("tiny", "", "", "", {"default": Preset(None, "")}, interrupted))
    assert main(["run", "tiny", "--out", str(tmp_path)]) == 130
    assert "--resume" in capsys.readouterr().err
