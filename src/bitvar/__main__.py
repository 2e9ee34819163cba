"""`python -m bitvar`: the command `bitvar`, where its script is not on the path."""

from bitvar.cli.process import run

if __name__ == "__main__":
    run()
