"""Every command that README, docs and examples show is one that the command line takes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from gandid.cli import app
from gandid.config import StudyConfig

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += [path for path in sorted((ROOT / "examples").iterdir()) if path.suffix in (".py", ".sh", ".yaml")]
PLACEHOLDERS = re.compile(r"\$\S+|\.\.\.|\[.*")


def commands(path: Path) -> list[str]:
    """The lines of a document that begin with `gandid`, continued ones in one, without prompts and comments."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip("#> ") for line in text.splitlines()]
    lines += re.findall(r"`(gandid [a-z][^`\n]*runs/[^`\n]*)`", text)
    return [line for line in lines if re.match(r"gandid [a-z]+ [^`]+$", line) and not PLACEHOLDERS.search(line)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_taken(path):
    for line in commands(path):
        command, *words = shlex.split(line, comments=True)[1:]
        with app.make_context("gandid", [command]) as parent:  # has the settings that the commands share
            app.commands[command].make_context(command, words, parent=parent)


def test_there_are_commands_to_check():
    assert sum(map(len, map(commands, DOCUMENTS))) > 20


def test_links_and_pictures_of_the_documents_exist():
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_the_papers_setting_is_a_configuration():
    config = StudyConfig.read(ROOT / "examples" / "liu2020.yaml")
    assert config.layer == "layer4" and config.targets == ("chair", "painting", "lamp", "light")


def test_one_image_by_hand():
    """Every snippet runs and does what the page says: half of a lamp goes, held nearly all; an insertion makes no plant."""
    known: dict[str, Any] = {}
    for snippet in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "by-hand.md").read_text(encoding="utf-8"), re.S):
        exec(snippet, known)
    left = known["left"].sum(dim=1)
    assert left[0] > 200 and 0.4 < left[1] / left[0] < 0.6 and left[2] < 0.05 * left[0]
    assert known["gain"].min() > 0.999
    before, after = known["images"]
    plants = [
        int((known["segmenter"](one) == known["segmenter"].classes.index("plant")).sum()) for one in (before, after)
    ]
    assert plants == [0, 0] and (after - before).abs().amax() > 0.1  # a smudge


def test_pages_and_sections_that_the_code_cites_exist():
    cited = set()
    for path in (ROOT / "src").rglob("*.py"):
        text = " ".join(path.read_text(encoding="utf-8").split())
        cited |= set(re.findall(r'(docs/[\w-]+\.md)(?:, "([^"]+)")?', text))
    assert len(cited) > 10
    for page, section in cited:
        headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.M)
        assert any(heading.startswith(section) for heading in headings), f"{page} has no section {section}"
