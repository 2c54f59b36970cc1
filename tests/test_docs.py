"""The pages: built without a warning, links that lead somewhere, every message named, the tutorial run as it stands."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.error_messages import VARIES, list_messages

import shardproof

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)  # in its place, or defined below
REFERENCE = re.compile(r"(?<!!)\[([^\]]+)\](?:\[([^\]]+)\])?(?![:(\[])")


# Links


def remove_code(text):
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))


def list_links(text):
    return [inline or defined for inline, defined in LINK.findall(remove_code(text))]


def slug(heading):
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def list_anchors(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def find_dead_links(text, folder):
    """Links to files and headings of the repository that are not there; absolute links to it are looked up too."""
    base = PROJECT["urls"]["Repository"]
    raw = base.replace("https://github.com/", "https://raw.githubusercontent.com/")
    dead = []
    for link in list_links(text):
        target, _, anchor = link.partition("#")
        for prefix in (f"{base}/blob/main/", f"{base}/tree/main/", f"{raw}/main/"):
            if target.startswith(prefix):
                path = ROOT / target.removeprefix(prefix)
                break
        else:
            if ":" in target:
                continue
            path = folder / target if target else None
        if path is None or not path.exists() or (anchor and anchor not in list_anchors(path)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    text = page.read_text().replace("](#", f"]({page.name}#")
    assert find_dead_links(text, page.parent) == []


def test_a_link_that_leads_nowhere_is_found():
    base = PROJECT["urls"]["Repository"]
    links = ["exact.md", "absent.md", "exact.md#theorem-3-cuts", "exact.md#absent", "https://pytorch.org/absent"]
    links += [f"{base}/blob/main/LICENSE", f"{base}/blob/main/absent"]
    text = " ".join(f"[x]({link})" for link in links) + " `[x](code.md)`"
    assert find_dead_links(text, DOCS) == ["absent.md", "exact.md#absent", f"{base}/blob/main/absent"]


# A package index's page


def test_the_readme_has_absolute_links_alone():
    links = list_links((ROOT / "README.md").read_text())
    assert len(links) > 20
    assert [link for link in links if not link.startswith("https://")] == []


def find_undefined(text):
    """References to links that are not defined, which would be shown as they are; and definitions without a use."""
    text = remove_code(text)
    defined = set(re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE))
    used = {label or shown for shown, label in REFERENCE.findall(text)}
    return sorted(used ^ defined)


def test_every_reference_of_the_readme_is_defined_and_used():
    assert find_undefined((ROOT / "README.md").read_text()) == []
    assert find_undefined("[a][b] [c] [d](e)\n\n[b]: x\n[f]: y\n") == ["c", "f"]


def test_the_readme_opens_with_a_proof_that_holds_and_one_that_caught_a_bug():
    opening = (ROOT / "README.md").read_text().partition("\n## ")[0]
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", opening)
    assert [Path(address).name for _, address in pictures] == ["qwen3.png", "qwen3-without-q-norm.png"]
    raw = PROJECT["urls"]["Repository"].replace("https://github.com/", "https://raw.githubusercontent.com/")
    assert all(address.startswith(f"{raw}/main/docs/gallery/") and len(text) > 20 for text, address in pictures)


def test_the_project_has_its_addresses():
    assert {"Homepage", "Documentation", "Repository", "Issues", "Changelog"} <= set(PROJECT["urls"])
    assert all(address.startswith(PROJECT["urls"]["Repository"]) for address in PROJECT["urls"].values())
    assert find_dead_links(" ".join(f"[x]({address})" for address in PROJECT["urls"].values()), ROOT) == []


# The site


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    # As `make docs` does.
    command = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "-m sphinx" in line)
    words = command.replace("$(BIN)/python", sys.executable).replace("build/docs", str(tmp_path)).split()
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    api = (tmp_path / "api.html").read_text()
    assert "Prove that a sharded training step is still the single-device step." in api
    assert (tmp_path / "_images").is_dir()


def test_every_page_is_in_the_index():
    named = set(re.findall(r"^[\w-]+$", (DOCS / "index.md").read_text(), re.MULTILINE))
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= named


def test_every_public_name_is_in_the_reference():
    text = (DOCS / "api.md").read_text()
    assert [name for name in shardproof.__all__ if f" shardproof.{name}\n" not in text] == []
    byhand = set(shardproof.byhand.__all__) if hasattr(shardproof, "byhand") else set()
    assert [name for name in byhand - {"Batch"} if f" shardproof.byhand.{name}\n" not in text] == []


# Messages


def read_patterns(text):
    """The messages in the tables of a page: the first cell of each row."""
    return re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)


def names(pattern, text):
    """Whether a row is of a message. One that begins with `...` and has few words must be the message itself."""
    told = re.sub(f"{VARIES}+", "...", text)
    if pattern.startswith("...") and len(re.sub(r"[^a-z]", "", pattern)) < 20:
        return pattern == told
    return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("...")), told, re.DOTALL) is not None


def find_unnamed(messages, patterns):
    told = {message: message.text.replace(VARIES, "...") for message in messages}
    return [
        f"{message.where}: {text}"
        for message, text in told.items()
        if not any(names(pattern, message.text) for pattern in patterns)
    ]


def test_every_message_is_on_the_page_of_messages():
    messages = list_messages()
    assert len(messages) > 250
    patterns = read_patterns((DOCS / "troubleshooting.md").read_text())
    assert find_unnamed(messages, patterns) == [], "give each a row in docs/troubleshooting.md: what is to be done?"


def test_every_row_is_a_message_that_is_raised():
    texts = [message.text for message in list_messages()]
    patterns = read_patterns((DOCS / "troubleshooting.md").read_text())
    assert len(set(patterns)) == len(patterns)
    assert [pattern for pattern in patterns if not any(names(pattern, text) for text in texts)] == []


def test_a_row_of_few_words_is_of_one_message_alone():
    assert names("... has no ...", f"{VARIES} has no {VARIES}")
    assert not names("... has no ...", f"{VARIES} has no model_type")
    assert names("--widths ...", f"--widths {VARIES}: a width of {VARIES}")
    assert not names("--widths ...", f"--samples {VARIES}")


def test_a_message_that_is_missing_is_found():
    messages = list_messages()
    patterns = read_patterns((DOCS / "troubleshooting.md").read_text())
    fewer = [one for one in patterns if "the ranks are in different collectives" not in one]
    (missing,) = set(find_unnamed(messages, fewer)) - set(find_unnamed(messages, patterns))
    assert missing.startswith("worlds/thread_group.py:")


# The tutorial


def read_steps():
    """What a reader does: (file, code) to write or to add, and (command, what it prints)."""
    blocks = BLOCK.findall((DOCS / "tutorial.md").read_text())
    for index, (language, text) in enumerate(blocks):
        if language == "python":
            yield "write", text
        elif language == "sh":
            language_below, below = blocks[index + 1]
            assert language_below == "text"
            yield "run", (text.strip(), below)


def matches(printed, expected):
    """`...` in a line of its own stands for any lines, at the end of a line for its rest."""
    parts = [re.escape(line).replace(r"\.\.\.", ".*") for line in expected.splitlines()]
    pattern = "".join("(?:.*\n)*?" if part == ".*" else f"{part}\n" for part in parts)
    return re.fullmatch(pattern, printed) is not None


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path):
    run = 0
    for kind, content in read_steps():
        if kind == "write":
            name, _, added = content.partition("\n")[0].removeprefix("# ").partition(", ")
            path = tmp_path / name
            path.write_text((path.read_text() if added else "") + content)
            continue
        command, expected = content
        words = shlex.split(command)
        words = words[1:] if words[0] == "python" else ["-m", *words]
        if "pytest" in words:
            words += ["-p", "no:cacheprovider"]
        result = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert matches(result.stdout, expected), f"{command}\n{result.stdout}\n{result.stderr}"
        assert result.returncode == ("NOT PROVED" in expected)
        run += 1
    assert run == 5


def test_what_the_tutorial_does_not_say_is_noticed():
    assert matches("a\nb\nc\n", "a\n...\nc\n")
    assert matches("1 passed in 2.0s\n", "1 passed in ...\n")
    assert not matches("a\nb\nc\n", "a\nc\n")
    assert not matches("PROVED: 42 tensors\n", "PROVED: 43 tensors\n")
    assert not matches("a\nb\n", "a\n")
