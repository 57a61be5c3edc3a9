"""`python -m sso_data` is the `sso-data` command."""

from sso_data.cli import main

if __name__ == "__main__":
    main()
