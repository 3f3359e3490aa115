"""The command line of the programs: `python -m models list | run NAME | fetch NAME`.

Exit status: 0 if every asserted claim holds, 1 if one does not, 2 for a request that cannot be met, 130 for an
interrupted run.
"""

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from models import data, registry
from models.registry import PRESETS, Context, Program, UsageError
from models.report import Report, collect


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # it has printed help or an error
        return int(stop.code or 0)
    try:
        return arguments.command(arguments)
    except (UsageError, data.DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description="Published programs, trained and checked.")
    commands = parser.add_subparsers(required=True, metavar="list | run | fetch")

    listing = commands.add_parser("list", help="show every program with its paper, data and time per preset")
    listing.set_defaults(command=list_programs)

    run = commands.add_parser("run", help="train or evaluate a program; write its report, pictures and checkpoint")
    run.add_argument("name", metavar="NAME", help="a program, as `list` shows it")
    run.add_argument("--preset", choices=PRESETS, default="default", help="scale (default: %(default)s)")
    run.add_argument("--seed", type=_whole(0), default=0, help="first seed (default: %(default)s)")
    run.add_argument("--seeds", type=_whole(1), default=1, metavar="N", help="run N seeds, from --seed on")
    run.add_argument("--out", type=Path, metavar="DIR", help="where the files go (default: runs/NAME-PRESET)")
    run.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    run.set_defaults(command=run_program)

    fetch = commands.add_parser("fetch", help="download a data set that pip does not install")
    fetch.add_argument("name", metavar="NAME", help=", ".join(data.ARCHIVES))
    fetch.set_defaults(command=fetch_data)
    return parser


def _whole(least: int):
    """Return an argument type: whole numbers from `least` on."""

    def whole(text: str) -> int:
        if int(text) < least:
            raise ValueError
        return int(text)

    whole.__name__ = f"whole number from {least} on"  # argparse puts the name into its message
    return whole


def list_programs(arguments: argparse.Namespace) -> int:
    """Print every program."""
    for name in registry.names():
        try:
            print(_card(registry.find(name)))
        except ModuleNotFoundError as error:  # an optional package: the other programs are still worth listing
            print(f"{name}\n    needs {error.name}, which is not installed: pip install 'programmable-vi[models]'")
    return 0


def _card(program: Program) -> str:
    times = ", ".join(f"{name} {preset.time}" for name, preset in program.presets.items())
    lines = [program.name, f"    {program.title}"]
    for label, text in (("paper", program.paper), ("data", program.data), ("time", times)):
        lines.append(textwrap.fill(text, 110, initial_indent=f"    {label:<7}", subsequent_indent=" " * 11))
    return "\n".join(lines)


def run_program(arguments: argparse.Namespace) -> int:
    """Run a program with one or several seeds, print its report and write it to the output folder."""
    program = registry.find(arguments.name)
    preset = program.preset(arguments.preset)
    out = arguments.out or Path("runs", f"{program.name}-{arguments.preset}")
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    started = time.perf_counter()
    try:
        outcomes = []
        for seed in seeds:
            folder = out / f"seed-{seed}" if len(seeds) > 1 else out
            context = Context(preset.config, seed, folder, arguments.resume)
            _open_folder(context, program.name, arguments.preset)
            (out / "report.json").unlink(missing_ok=True)  # of an earlier run
            outcomes.append(program.run(context))
    except KeyboardInterrupt:
        print(f"\ninterrupted. The same command with --resume goes on from {out}", file=sys.stderr)
        return 130
    seconds = round(time.perf_counter() - started, 2)
    return _finish(collect(program.name, arguments.preset, seeds, seconds, outcomes), out)


def _open_folder(context: Context, name: str, preset: str) -> None:
    """Make the folder of a run, and refuse to resume another run than the one whose checkpoint is there."""
    run = {"name": name, "preset": preset, "seed": context.seed, "config": repr(context.config)}
    card = context.out / "run.json"
    found = json.loads(card.read_text()) if context.resume and card.exists() else run
    if changed := [
        f"  {word}: {found.get(word)} there, {run[word]} now" for word in run if found.get(word) != run[word]
    ]:
        remedy = "Give another --out, or leave --resume out to start afresh."
        raise UsageError("\n".join([f"{context.out} holds another run, which cannot be resumed:", *changed, remedy]))
    context.out.mkdir(parents=True, exist_ok=True)
    card.write_text(json.dumps(run, indent=2) + "\n")


def _finish(report: Report, out: Path) -> int:
    report.write(out / "report.json")
    print(f"\n{report.table()}\n\nreport, pictures and checkpoint: {out}")
    return int(report.failed)


def fetch_data(arguments: argparse.Namespace) -> int:
    """Download a data set into the cache."""
    if arguments.name not in data.ARCHIVES:
        remedy = registry.suggest(arguments.name, data.ARCHIVES)
        raise UsageError(f"there is no data set {arguments.name!r} to fetch. {remedy}")
    archive = data.ARCHIVES[arguments.name]
    print(f"{archive.pin} by {archive.tool}, {archive.megabytes} MB, licence: {archive.licence}")
    print(f"in {data.fetch(arguments.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
