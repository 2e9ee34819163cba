"""Build the documentation site; every warning is an error, and so is a link or an anchor that leads nowhere.

python scripts/docs/build.py [OUT]

Needs the extra `docs` (`pip install -e ".[docs]"`). The result is a folder of files, `site/` by default: open its
`index.html` in a browser, without a server; the search works there, too. The notebooks run during the build.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from sphinx.cmd.build import main as sphinx_build

ROOT: Final = Path(__file__).parents[2]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "site", help="folder")
    parser.add_argument("--fresh", action="store_true", help="read every page again")
    parser.add_argument("--jobs", default="1", help="processes, or auto")
    parser.add_argument("--no-notebooks", action="store_true", help="show the notebooks without running them")
    arguments = parser.parse_args()
    options = ["-b", "html", "-W", "--keep-going", "-q", "-j", arguments.jobs, "-d", str(arguments.out / ".doctrees")]
    if arguments.fresh:
        options.append("-E")
    if arguments.no_notebooks:
        options += ["-D", "nb_execution_mode=off"]
    # The notebooks run in a process of their own, which has to find the package of this clone.
    os.chdir(ROOT)
    sys.exit(sphinx_build([*options, str(ROOT / "docs"), str(arguments.out)]))


if __name__ == "__main__":
    main()
