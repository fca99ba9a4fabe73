"""python -m pass_edge.cli"""

from . import main

main(prog_name="pass-edge")
