"""`python -m bitvar`: the command `bitvar`, where its script is not on the path."""

from bitvar.cli.main import main

if __name__ == "__main__":
    main()
