"""``python -m cirrus_fast`` is the command ``cirrus-fast``."""

from cirrus_fast.cli import main

if __name__ == "__main__":
    main()
