"""Install the command line, `cli.py` at the top of the repository, as the module `pass_edge.cli`.

All else is in pyproject.toml. There, `pass_edge.cli` is listed as a package, which makes an editable
installation find cli.py under that name; an ordinary one is told here that it is a module of `pass_edge`.
"""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCli(build_py):
    """build_py, except that `pass_edge.cli` is no package: cli.py belongs to `pass_edge`."""

    def check_package(self, package: str, package_dir: str) -> "str | None":
        return None if package == "pass_edge.cli" else super().check_package(package, package_dir)

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        if package == "pass_edge.cli":
            return []
        found = super().find_package_modules(package, package_dir)
        return [*found, ("pass_edge", "cli", "cli.py")] if package == "pass_edge" else found


setup(cmdclass={"build_py": BuildWithCli})
