"""`python -m strop` is the command `strop`, for where its script is not on the path."""

from strop.cli import main

if __name__ == "__main__":
    main()
