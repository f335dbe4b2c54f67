"""The README and docs say only what is so: links lead somewhere, commands and targets exist, blocks run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from supernode.cli import COMMANDS, build_parser

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def commands(page: Path) -> list[str]:
    """Every command line of the page's shell blocks, without comments."""
    lines = "\n".join(BLOCK.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.strip().startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_exists(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        elif words[:1] == ["supernode"] and not {"|", ">", "&"} & set(words):
            assert words[1] in COMMANDS, line
            try:
                build_parser([words[1]]).parse_args(words[1:])
            except SystemExit as exc:  # --help ends with 0, a wrong option with 2
                assert exc.code == 0, f"{line}: {capsys.readouterr().err}"
        elif words and words[0].startswith("kind/"):
            assert os.access(ROOT / words[0], os.X_OK), line


def test_every_kind_cluster_has_the_name_that_the_image_is_loaded_into() -> None:
    script = (ROOT / "kind/load-image.sh").read_text(encoding="utf-8")
    name = re.search(r'^cluster="\$\{1:-(\w+)\}"', script, re.MULTILINE)
    assert name
    for page in (*PAGES, *(ROOT / "kind").glob("*.yaml")):
        for line in re.findall(r"kind create cluster .*", page.read_text(encoding="utf-8")):
            assert f"--name {name[1]} " in line, f"{page}: {line}"


@pytest.mark.envtest
@pytest.mark.timeout(300)
def test_the_readme_block_about_the_local_cluster_runs_as_written() -> None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets or not shutil.which("kubectl", path=assets):
        pytest.skip("needs kubectl: set KUBEBUILDER_ASSETS")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(part for part in BLOCK.findall(text) if "supernode local up" in part)
    assert "activate" in block.splitlines()[0]
    # The environment of the running interpreter stands for `.venv`; everything else is as written.
    script = "set -euo pipefail\n" + "\n".join(block.splitlines()[1:])
    bin_folder = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        environment = os.environ | {
            "PATH": os.pathsep.join([str(bin_folder), assets, os.environ["PATH"]]),
            "SUPERNODE_LOCAL_DIR": f"{folder}/s",
        }
        environment.pop("KUBECONFIG", None)
        try:
            done = subprocess.run(
                ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
            )
        finally:
            subprocess.run([bin_folder / "supernode", "local", "down"], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "condition met" in done.stdout
    assert "dcu-0" in done.stdout
