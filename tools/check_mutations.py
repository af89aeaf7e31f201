#!/usr/bin/env python
"""Do the tests notice a mistake? Make small ones in fcos_rpn/modeling, one at a time, and run the tests on each.

Mutants are chosen by --seed, from all modules by their lines: < becomes <=, + becomes -, a constant another one, min
becomes max, a call is left out, and so on (tests/mutation). No file is changed: each runs in a process of its own,
which imports the changed source in place of the module, with the module's tests and those of TESTS below, up to the
first that fails. One that takes far longer than the unchanged module's counts as caught. The same command goes on where
it was stopped; what is caught and what survives is in --output, and a mutant is run anew if its module or its tests
have changed. Ends with status 1 if less than --least percent are caught. A survivor either gets a test, or its reason
in tests/mutation/equivalent.json.

Examples:
    tools/check_mutations.py --mutants 80
    tools/check_mutations.py --mutants 30 --module head --module losses --seed 2
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # as the tests have it; and only a process of one thread can be forked

from tabulate import tabulate
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.mutation.mutants import Mutant, StaleList, choose, mutants_of, read_equivalent  # noqa: E402
from tests.mutation.trial import OUT_OF_TIME, CannotRun, Outcome, try_out  # noqa: E402

PACKAGE = "fcos_rpn/modeling"
TEST_FOLDER = "tests/modeling"
EQUIVALENT = ROOT / "tests" / "mutation" / "equivalent.json"

TESTS: Mapping[str, Sequence[str]] = {
    "assigner": ["modeling/test_core.py"],
    "backbone": ["modeling/test_meta_arch.py"],
    "deformable": ["modeling/test_head.py"],
    "focal_loss": ["modeling/test_losses.py"],
    "geometry": ["modeling/test_postprocess.py", "modeling/test_assigner.py"],
    "head": ["modeling/test_core.py"],
    "losses": ["modeling/test_core.py"],
    "networks": ["modeling/test_backbone.py"],
    "postprocess": ["modeling/test_meta_arch.py", "modeling/test_proposal_generator.py"],
    "tta": ["test_engine.py"],
}
"""Tests of a module of `PACKAGE` besides `TEST_FOLDER`/test_<module>.py, which come first; below tests/."""

IMPORTED_FIRST = (
    *("torch", "torchvision", "detectron2.data", "detectron2.engine", "detectron2.evaluation", "detectron2.modeling"),
    *("pytest", "hypothesis", "timm", "matplotlib.figure", "cv2"),
)
"""What all trials begin with; nothing of fcos_rpn, which each of them imports changed."""

SLOWER, SECONDS_MORE = 4, 30
"""A mutant is stopped after so many times what the tests of the unchanged module take, and so many seconds more."""

MOST_SECONDS = 600
"""For the tests of an unchanged module."""


class Module(NamedTuple):
    """A module whose tests are tested."""

    name: str
    """Dotted."""
    file: Path
    source: str
    tests: list[Path]
    digest: str
    """Of the source and the tests."""

    def try_out(self, source: str, seconds: float) -> Outcome:
        return try_out(self.name, self.file, source, self.tests, root=ROOT, seconds=seconds)


class Failed(Exception):  # noqa: N818
    """Ends the check with a message."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole job, top-down."""
    args = build_argument_parser().parse_args(arguments)
    modules = read_modules()
    mutants = {name: mutants_of(name, module.source) for name, module in modules.items()}
    reasons = read_equivalent(EQUIVALENT, mutants)
    chosen = choose_mutants(args, modules, mutants)
    results = Results(args.output)
    run_mutants([mutant for mutant in chosen if not results.has(mutant, modules)], modules, results)
    return report([(mutant, results.of(mutant, modules)) for mutant in chosen], reasons, args.least)


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=80, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the choice; default: %(default)s")
    parser.add_argument("--least", type=float, default=95.0, metavar="PERCENT", help="default: %(default)s")
    parser.add_argument("--module", action="append", metavar="NAME", help="of this one alone, as head; repeatable")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/check_mutations.json"),
        metavar="JSON",
        help="results, which the next run goes on with; default: %(default)s",
    )
    return parser


def read_modules() -> dict[str, Module]:
    """The modules of `PACKAGE` by dotted name."""
    modules = {}
    for file in sorted((ROOT / PACKAGE).glob("*.py")):
        source = file.read_text(encoding="utf-8")
        if file.stem == "__init__":
            continue
        further = TESTS.get(file.stem, [])
        own = ROOT / TEST_FOLDER / f"test_{file.stem}.py"
        properties = own.with_name(f"{own.stem}_properties.py")
        tests = [own, *([properties] if properties.exists() else []), *(ROOT / "tests" / name for name in further)]
        if missing := [test for test in tests if not test.exists()]:
            raise Failed(f"{file}: there is no {missing[0]} to test it; name its tests in {Path(__file__).name}")
        digest = hashlib.sha256()
        for content in (source.encode(), *(test.read_bytes() for test in tests)):
            digest.update(hashlib.sha256(content).digest())
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        modules[name] = Module(name, file, source, tests, digest.hexdigest())
    return modules


def choose_mutants(
    args: argparse.Namespace, modules: Mapping[str, Module], mutants: Mapping[str, Sequence[Mutant]]
) -> list[Mutant]:
    stems = {name.rpartition(".")[2]: name for name in modules}
    if unknown := [stem for stem in args.module or [] if stem not in stems]:
        raise Failed(f"--module {unknown[0]}: {PACKAGE} has {', '.join(stems)}")
    if args.mutants < 1:
        raise Failed("--mutants must be at least 1")
    wanted = [stems[stem] for stem in args.module or stems]
    sources = {name: modules[name].source for name in wanted}
    chosen = choose({name: mutants[name] for name in wanted}, sources, args.mutants, args.seed)
    print(f"{len(chosen)} of {sum(len(mutants[name]) for name in wanted)} mutants of {len(wanted)} modules", flush=True)
    return chosen


class Results:
    """What was caught, in a file that a later run reads."""

    def __init__(self, file: Path) -> None:
        """
        Raises:
            Failed: if there is a file that is not of this tool.
        """
        self.file = file
        self.content: dict[str, dict[str, Any]] = {"mutants": {}, "seconds_unchanged": {}}
        if file.exists():
            try:
                self.content = json.loads(file.read_text(encoding="utf-8"))
                self.content["mutants"], self.content["seconds_unchanged"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise Failed(
                    f"--output {file} holds no results of this tool: name another one, or remove it"
                ) from error

    def has(self, mutant: Mutant, modules: Mapping[str, Module]) -> bool:
        return self.content["mutants"].get(mutant.name, {}).get("digest") == modules[mutant.module].digest

    def of(self, mutant: Mutant, modules: Mapping[str, Module]) -> dict[str, Any]:
        assert self.has(mutant, modules)
        return self.content["mutants"][mutant.name]

    def add(self, mutant: Mutant, module: Module, outcome: Outcome) -> None:
        found = {"is_caught": outcome.is_caught, "by": outcome.by, "seconds": round(outcome.seconds, 1)}
        self.content["mutants"][mutant.name] = {"digest": module.digest, **found}
        self.write()

    def seconds_unchanged(self, module: Module) -> float:
        """That the tests of the unchanged module take; the first time, they are run.

        Raises:
            Failed: if they do not pass.
        """
        known = self.content["seconds_unchanged"].get(module.name, {})
        if known.get("digest") != module.digest:
            outcome = module.try_out(module.source, MOST_SECONDS)
            if outcome.is_caught:
                raise Failed(f"{module.name}: {outcome.by} fails without any change:\n{outcome.log}")
            known = {"digest": module.digest, "seconds": round(outcome.seconds, 1)}
            self.content["seconds_unchanged"][module.name] = known
            self.write()
        return float(known["seconds"])

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(self.file.name + ".partial")
        partial.write_text(json.dumps(self.content, indent=1, ensure_ascii=False), encoding="utf-8")
        partial.replace(self.file)


def run_mutants(mutants: Sequence[Mutant], modules: Mapping[str, Module], results: Results) -> None:
    if mutants:
        for name in IMPORTED_FIRST:
            importlib.import_module(name)
    tqdm.monitor_interval = 0  # it would be a second thread
    with tqdm(mutants, unit="mutant", smoothing=0.1) as progress:
        for mutant in progress:
            module = modules[mutant.module]
            progress.set_description(mutant.module.rpartition(".")[2])
            outcome = module.try_out(mutant.source, SLOWER * results.seconds_unchanged(module) + SECONDS_MORE)
            results.add(mutant, module, outcome)
            if not outcome.is_caught:
                progress.write(f"survives: {mutant.name} (line {mutant.line})")


def report(found: Sequence[tuple[Mutant, Mapping[str, Any]]], reasons: Mapping[str, str], least: float) -> int:
    """Print tables by module and of the survivors.

    Returns:
        The exit status.
    """
    rows: dict[str, list[int]] = {}
    for mutant, result in found:
        row = rows.setdefault(mutant.module, [0, 0, 0])
        row[0] += 1
        row[1] += result["is_caught"]
        row[2] += not result["is_caught"] and mutant.name in reasons
    headers = ["module", "mutants", "caught", "listed"]
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    print(tabulate([[name, *row] for name, row in rows.items()] + [["all", *total]], headers=headers))
    survivors = [mutant for mutant, result in found if not result["is_caught"] and mutant.name not in reasons]
    if survivors:
        lines = [[mutant.module, mutant.line, mutant.before, mutant.after] for mutant in survivors]
        print(f"\nsurvivors\n{tabulate(lines, headers=['module', 'line', 'before', 'after'])}")
        print(f"\nGive each a test, or, if none can tell it from the original, its reason in {EQUIVALENT.name}:")
        print(json.dumps({mutant.name: "" for mutant in survivors}, indent=1, ensure_ascii=False))
    wrongly_listed = [mutant.name for mutant, result in found if result["is_caught"] and mutant.name in reasons]
    if wrongly_listed:
        print(f"\n{EQUIVALENT.name} lists what the tests do catch; remove:\n  " + "\n  ".join(wrongly_listed))
    num_counted = total[0] - total[2]
    percent = 100 * total[1] / num_counted if num_counted else 100.0
    out_of_time = sum(result["by"] == OUT_OF_TIME for _, result in found)
    print(
        f"\n{total[1]} of {num_counted} mutants are caught, {percent:.1f} % ({out_of_time} of them run out of time); "
        f"{total[2]} more are listed as equivalent. At least {least:g} % are wanted."
    )
    return 1 if percent < least or wrongly_listed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, StaleList, CannotRun) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on")
