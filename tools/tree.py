# SPDX-License-Identifier: Apache-2.0
"""What the checks in this folder share: the project's own files, and how a finding is printed."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def git(*arguments):
    """What git prints, or None if this is no clone (a release archive, say) or there is no git."""
    try:
        # The clone may belong to somebody else than who looks at it.
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def files():
    """Paths (relative to the root) of all files that belong to the project: tracked, or new and not ignored."""
    listed = git("ls-files", "-co", "--exclude-standard", "-z")
    if listed is not None:
        names = [pathlib.Path(n) for n in listed.split("\0") if n]
    else:
        names = [p.relative_to(ROOT) for p in ROOT.rglob("*")]
        names = [n for n in names if n.parts[0] not in ("build", ".git")]
    return sorted(n for n in names if (ROOT / n).is_file() and not (ROOT / n).is_symlink())


def text(name):
    """The file's text, or None of a binary one."""
    try:
        return (ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def is_script(name):
    """The interpreter's name if the file starts with #!, else an empty string."""
    with open(ROOT / name, "rb") as f:
        first = f.readline(200)
    return first.decode("utf-8", "replace").strip() if first.startswith(b"#!") else ""


def finish(what, findings):
    """Prints the findings and ends the program: status 1 if there are any."""
    for finding in findings:
        print(finding)
    if findings:
        print(f"{what}: {len(findings)} found", file=sys.stderr)
    sys.exit(1 if findings else 0)
