"""Which files are mutated: all of two rooms, and a sample of the rules. Each against the test that has its name."""

from pathlib import Path

from tests.mutation.runs import Tests

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "shardproof"
WHOLE_ROOMS = ("exact/algebra", "proving/judging")
JUDGE = ROOT / "tests" / "proving" / "judging" / "test_judge.py"
SAMPLE = (
    "exact/rules/attention.py",
    "exact/rules/convolution.py",
    "exact/rules/losses.py",
    "exact/rules/normalization.py",
    "exact/rules/order.py",
    "exact/rules/reductions.py",
    "exact/rules/softmax.py",
)


def list_targets():
    """Paths below src/shardproof, in order; not the files of values without logic, which have no test of their own."""
    rooms = [path for room in WHOLE_ROOMS for path in sorted((PACKAGE / room).glob("*.py"))]
    files = [str(path.relative_to(PACKAGE)) for path in rooms if path.name != "__init__.py"] + list(SAMPLE)
    return [file for file in files if find_test(file).is_file()]


def find_test(target):
    """The test that has the file's name; it need not be there."""
    return ROOT / "tests" / Path(target).with_name(f"test_{Path(target).name}")


def make_tests(target):
    """The quick tests of a file: its own, and of one of the judge's files the judge's table too."""
    module = ".".join(("shardproof", *Path(target).with_suffix("").parts))
    files = dict.fromkeys([find_test(target), *([JUDGE] if target.startswith("proving/judging/") else [])])
    arguments = (*map(str, files), "-m", "not slow and not processes")
    return Tests(module=module, path=PACKAGE / target, arguments=arguments)
