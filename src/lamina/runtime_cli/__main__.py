"""`python -m lamina.runtime_cli` is `lamina-runtime`."""

from lamina.runtime_cli.entry import main

if __name__ == "__main__":
    main()
